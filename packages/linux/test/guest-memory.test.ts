import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { type PageRun, RAM_WINDOW_BYTES } from '@godwit/core';
import {
  attachGuestMemory,
  type BlockPlacement,
  createGuestMemory,
  hostMemory,
  hostSupport,
  type MappedGuestMemory,
  type MappedRamBlock,
  type MemoryBacking,
  transparentHugePagesObstacle,
} from '@godwit/linux';
import { checkBlockLayout, checkFitsHost, HOST_PAGE_SIZE } from '@godwit/linux/unstable';
import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { errorOf } from './error-of.js';
import { testWhen } from './when-usable.js';

const PAGE = HOST_PAGE_SIZE;
const GIB = 2 ** 30;

function oneBlock(
  byteLength: number,
  pageSize = PAGE,
  backing: MemoryBacking = 'file',
): { memory: MappedGuestMemory; block: MappedRamBlock } {
  const memory = createGuestMemory({ backing, pageSize, blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength }] });
  return { memory, block: memory.blocks[0] as MappedRamBlock };
}

test('a block larger than a window is one memory, seen through windows', async () => {
  // Views of up to 4 GiB share one buffer.
  const { memory, block } = oneBlock(5 * GIB + 2 * PAGE);
  const borders = [1, 2, 4, 5].flatMap((windows) => [windows * RAM_WINDOW_BYTES - 1, windows * RAM_WINDOW_BYTES]);
  const edges = [0, ...borders, block.byteLength - 1];
  for (const [i, offset] of edges.entries()) block.view(offset, 1)[0] = i + 1;
  const byte = new Uint8Array(1);
  for (const [i, offset] of edges.entries()) {
    expect(readSync(block.fd as number, byte, 0, 1, offset)).toBe(1);
    expect(byte[0]).toBe(i + 1);
    writeSync(block.fd as number, new Uint8Array([100 + i]), 0, 1, offset);
    expect(block.view(offset, 1)[0]).toBe(100 + i);
  }
  // The windows of one block are one mapping: views of one window share its buffer.
  expect(block.view(0, PAGE).buffer).toBe(block.view(RAM_WINDOW_BYTES - PAGE, PAGE).buffer);
  for (const start of [0, 1, 3, 4]) {
    expect(block.view(start * RAM_WINDOW_BYTES, RAM_WINDOW_BYTES).byteLength).toBe(RAM_WINDOW_BYTES);
  }
  expect(block.view(5 * RAM_WINDOW_BYTES, 2 * PAGE).byteLength).toBe(2 * PAGE);
  const across = await errorOf(() => block.view(RAM_WINDOW_BYTES - 1, 2));
  expect(across.code).toBe('GODWIT_INVALID_ARGUMENT');
  for (const [offset, length] of [
    [-1, 1],
    [0, -1],
    [block.byteLength, 1],
    [block.byteLength - 1, 2],
    [Number.NaN, 1],
  ] as const) {
    expect((await errorOf(() => block.view(offset, length))).code).toBe('GODWIT_OUT_OF_RANGE');
  }
  memory.close();
});

test('a sparse guest of 8 GiB costs what it touches', () => {
  const memory = createGuestMemory({
    overcommit: true,
    blocks: [
      { id: 'low', guestPhysicalAddress: 0, byteLength: 3 * GIB },
      { id: 'high', guestPhysicalAddress: 4 * GIB, byteLength: 5 * GIB },
    ],
  });
  expect(memory.allocatedBytes()).toBe(0);
  expect(memory.blocks.map((block) => [...block.populated()])).toEqual([[], []]);
  (memory.blocks[1] as MappedRamBlock).view(4 * GIB + 5 * PAGE, 1)[0] = 1;
  expect(memory.allocatedBytes()).toBe(PAGE);
  expect([...(memory.blocks[1] as MappedRamBlock).populated()]).toEqual([
    { firstPage: (4 * GIB) / PAGE + 5, pageCount: 1 },
  ]);
  memory.close();
});

/** Runs of set pages within a range: the naive oracle of `populated`. */
function runsOf(pages: ReadonlySet<number>, { firstPage, pageCount }: PageRun): PageRun[] {
  const runs: { firstPage: number; pageCount: number }[] = [];
  for (let page = firstPage; page < firstPage + pageCount; page++) {
    if (!pages.has(page)) continue;
    const last = runs.at(-1);
    if (last !== undefined && last.firstPage + last.pageCount === page) last.pageCount++;
    else runs.push({ firstPage: page, pageCount: 1 });
  }
  return runs;
}

/** Pages per block in the property; pages of 16 KiB take several of the host's. */
const PAGES = 48;
const range = fc
  .tuple(fc.nat(PAGES), fc.nat(PAGES))
  .map(([a, b]): PageRun => ({ firstPage: Math.min(a, b), pageCount: Math.abs(a - b) }));
const step = fc.oneof(
  fc.record({ do: fc.constant('write' as const), range }),
  fc.record({ do: fc.constant('touch' as const), range, byte: fc.nat() }),
  fc.record({ do: fc.constant('discard' as const), range }),
);

test.each([
  [PAGE, 'file'],
  [4 * PAGE, 'file'],
  [PAGE, 'anonymous'],
  [4 * PAGE, 'anonymous'],
] as const)('holes are seen, made and counted as a set of pages of %d bytes would (%s)', (pageSize, backing) => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), fc.array(range, { maxLength: 5 }), (steps, ranges) => {
      const { memory, block } = oneBlock(PAGES * pageSize, pageSize, backing);
      try {
        const hostPages = new Set<number>();
        const perPage = pageSize / PAGE;
        for (const action of steps) {
          const start = action.range.firstPage * pageSize;
          const length = action.range.pageCount * pageSize;
          if (length === 0) continue;
          if (action.do === 'discard') {
            block.discard(action.range);
            for (let i = 0; i < action.range.pageCount * perPage; i++) hostPages.delete(start / PAGE + i);
            expect(block.view(start, length).every((byte) => byte === 0)).toBe(true);
            // That reading allocated the pages again.
            block.discard(action.range);
          } else if (action.do === 'write') {
            block.view(start, length).fill(0xa5);
            for (let i = 0; i < action.range.pageCount * perPage; i++) hostPages.add(start / PAGE + i);
          } else {
            const at = start + (action.byte % length);
            block.view(at, 1)[0] = 1;
            hostPages.add(Math.floor(at / PAGE));
          }
        }
        const pages = new Set([...hostPages].map((page) => Math.floor(page / perPage)));
        for (const asked of [{ firstPage: 0, pageCount: PAGES }, ...ranges]) {
          expect([...block.populated(asked)]).toEqual(runsOf(pages, asked));
        }
        expect([...block.populated()]).toEqual(runsOf(pages, { firstPage: 0, pageCount: PAGES }));
        expect(memory.allocatedBytes()).toBe(hostPages.size * PAGE);
      } finally {
        memory.close();
      }
    }),
    { numRuns: 150 },
  );
});

test('a worker attaches by address and sees the same bytes; closing there leaves the memory here alone', async () => {
  const { memory, block } = oneBlock(64 * PAGE);
  block.view(9 * PAGE, 1)[0] = 41;
  const worker = new Worker(new URL('./workers/page-writer.js', import.meta.url), { workerData: memory.attachment() });
  worker.postMessage([9, 10]);
  await once(worker, 'message');
  worker.postMessage(null);
  await once(worker, 'exit');
  expect([block.view(9 * PAGE, 1)[0], block.view(10 * PAGE, 1)[0]]).toEqual([42, 1]);
  expect([...block.populated()]).toEqual([{ firstPage: 9, pageCount: 2 }]);
  memory.close();
});

test('attached by its file alone, a block is a second mapping of the same memory', async () => {
  const { memory, block } = oneBlock(16 * PAGE);
  const blocks = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 16 * PAGE, fd: block.fd as number }];
  const second = attachGuestMemory({ blocks });
  const there = second.blocks[0] as MappedRamBlock;
  expect(there.hostAddress).not.toBe(block.hostAddress);
  there.view(PAGE, 1)[0] = 5;
  expect(block.view(PAGE, 1)[0]).toBe(5);
  second.close();
  expect(block.view(PAGE, 1)[0]).toBe(5);

  const tooShort = await errorOf(() =>
    attachGuestMemory({
      blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 17 * PAGE, fd: block.fd as number }],
    }),
  );
  expect(tooShort.code).toBe('GODWIT_INVALID_ARGUMENT');
  const nothing = await errorOf(() =>
    attachGuestMemory({ blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGE }] }),
  );
  expect(nothing.code).toBe('GODWIT_INVALID_ARGUMENT');

  const byAddress = attachGuestMemory({
    blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 16 * PAGE, hostAddress: block.hostAddress }],
  });
  const blind = byAddress.blocks[0] as MappedRamBlock;
  expect([...blind.populated({ firstPage: 3, pageCount: 4 })]).toEqual([{ firstPage: 3, pageCount: 4 }]);
  expect((await errorOf(() => blind.discard({ firstPage: 0, pageCount: 1 }))).code).toBe('GODWIT_UNSUPPORTED');
  memory.close();
});

test('after close, nothing hands out memory that is gone', async () => {
  const { memory, block } = oneBlock(4 * PAGE);
  block.view(0, 1)[0] = 1;
  const scan = block.populated();
  memory.close();
  memory.close();
  expect((await errorOf(() => block.view(0, 1))).code).toBe('GODWIT_INVALID_STATE');
  expect((await errorOf(() => scan.next())).code).toBe('GODWIT_INVALID_STATE');
  expect((await errorOf(() => block.discard({ firstPage: 0, pageCount: 1 }))).code).toBe('GODWIT_INVALID_STATE');
});

const low: BlockPlacement = { id: 'low', guestPhysicalAddress: 0, byteLength: 4 * PAGE };
test.each<[string, number, readonly BlockPlacement[]]>([
  ['no blocks', PAGE, []],
  ['a page size that is no power of two', 3 * PAGE, [{ ...low, byteLength: 12 * PAGE }]],
  ['a page size below the host page', PAGE / 2, [low]],
  ['a length of 0', PAGE, [{ ...low, byteLength: 0 }]],
  ['a length that is no whole page', PAGE, [{ ...low, byteLength: PAGE + 1 }]],
  ['a negative address', PAGE, [{ ...low, guestPhysicalAddress: -PAGE }]],
  ['an unaligned address', PAGE, [{ ...low, guestPhysicalAddress: 1 }]],
  ['an end beyond 2^53', PAGE, [{ ...low, guestPhysicalAddress: 2 ** 53 - PAGE }]],
  ['no id', PAGE, [{ ...low, id: '' }]],
  ['the same id twice', PAGE, [low, { ...low, guestPhysicalAddress: 8 * PAGE }]],
  ['an overlap by a page', PAGE, [{ ...low, id: 'high', guestPhysicalAddress: 3 * PAGE }, low]],
  ['a block inside another', PAGE, [low, { id: 'in', guestPhysicalAddress: PAGE, byteLength: PAGE }]],
])('refuses %s', async (_, pageSize, blocks) => {
  expect((await errorOf(() => createGuestMemory({ pageSize, blocks }))).code).toBe('GODWIT_INVALID_ARGUMENT');
});

test('blocks that touch do not overlap', () => {
  expect(() =>
    checkBlockLayout(PAGE, [{ id: 'b', guestPhysicalAddress: 4 * PAGE, byteLength: PAGE }, low]),
  ).not.toThrow();
});

test('memory that can never fit is refused before anything is mapped, unless it is meant to be sparse', async () => {
  const host = { totalBytes: 4 * GIB, availableBytes: GIB };
  expect(() => checkFitsHost([3 * GIB, GIB], {}, host)).not.toThrow();
  const error = await errorOf(() => checkFitsHost([3 * GIB, GIB, PAGE], {}, host));
  expect(error.code).toBe('GODWIT_OUT_OF_MEMORY');
  expect(error.message).toMatch(/4097 MiB can never fit the host's 4096 MiB.*overcommit: true/);
  expect(() => checkFitsHost([3 * GIB, GIB, PAGE], { overcommit: true }, host)).not.toThrow();

  const { totalBytes, availableBytes } = hostMemory();
  expect(totalBytes).toBeGreaterThan(2 ** 28);
  expect(availableBytes).toBeGreaterThan(0);
  const huge = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 2 ** 48 }];
  expect((await errorOf(() => createGuestMemory({ blocks: huge }))).code).toBe('GODWIT_OUT_OF_MEMORY');
  // Beyond any address space: the mapping itself fails.
  expect((await errorOf(() => createGuestMemory({ blocks: huge, overcommit: true }))).code).toBe(
    'GODWIT_OUT_OF_MEMORY',
  );
});

test.each([
  ['-f', /larger than a file may be .*ulimit -f/],
  ['-v', /address space limit .*ulimit -v/],
])('the process limit of `ulimit %s` is an error, not a signal', (limit, message) => {
  // 100 GiB of address space is what Node itself needs to start.
  const kib = limit === '-v' ? 100 * 2 ** 20 : 1024;
  const bytes = limit === '-v' ? 200 * GIB : 2 ** 21;
  const script = `
    import { createGuestMemory } from '@godwit/linux';
    try {
      createGuestMemory({ overcommit: true, blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: ${bytes} }] });
    } catch (error) {
      console.log(error.code, error.message);
    }`;
  const output = execFileSync(
    'sh',
    ['-c', `ulimit ${limit} ${kib} && exec "$0" --input-type=module -e "$1"`, process.execPath, script],
    { encoding: 'utf8', cwd: new URL('..', import.meta.url) },
  );
  expect(output).toMatch(/^GODWIT_OUT_OF_MEMORY /);
  expect(output).toMatch(message);
});

test('an impossible pool of huge pages is an error that says what to do', async () => {
  const blocks = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 2 ** 40 }];
  const error = await errorOf(() => createGuestMemory({ blocks, overcommit: true, hugePages: '1GiB' }));
  expect(['GODWIT_OUT_OF_MEMORY', 'GODWIT_UNSUPPORTED']).toContain(error.code);
  expect(error.message).toMatch(/1024 huge pages of 1GiB.*vm\.nr_hugepages/);
  const odd = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 2 ** 21 + PAGE }];
  expect((await errorOf(() => createGuestMemory({ blocks: odd, hugePages: '2MiB' }))).code).toBe(
    'GODWIT_INVALID_ARGUMENT',
  );
});

test.each<[string | null, string | null, boolean]>([
  [null, null, false],
  [null, 'always [madvise] never', true],
  [null, 'always madvise [never]', false],
  ['always [inherit] madvise never', '[always] madvise never', true],
  ['always [inherit] madvise never', 'always madvise [never]', false],
  ['always inherit [madvise] never', 'always madvise [never]', true],
  ['always inherit madvise [never]', '[always] madvise never', false],
])('transparent huge pages of anonymous memory with %p for 2 MiB and %p for all: %p', (bySize, all, usable) => {
  const obstacle = transparentHugePagesObstacle('anonymous', (path) => {
    if (path.includes('shmem')) return '[always]';
    return (path.includes('2048kB') ? bySize : all) ?? '';
  });
  expect(obstacle === null).toBe(usable);
});

test.each<[string | null, string | null, boolean]>([
  [null, null, false],
  [null, 'always within_size advise [never] deny force', false],
  [null, 'always within_size [advise] never deny force', true],
  ['always [inherit] within_size advise never', 'always within_size advise [never] deny force', false],
  ['always [inherit] within_size advise never', '[always] within_size advise never deny force', true],
  ['always inherit within_size [advise] never', 'always within_size advise [never] deny force', true],
  ['always inherit within_size advise [never]', '[always] within_size advise never deny force', false],
])('transparent huge pages with %p for 2 MiB and %p for all: %p', (bySize, all, usable) => {
  const obstacle = transparentHugePagesObstacle('file', (path) => (path.includes('2048kB') ? bySize : all) ?? '');
  expect(obstacle === null).toBe(usable);
});

testWhen(hostSupport().transparentHugePages)('one touched byte takes a transparent huge page', () => {
  const memory = createGuestMemory({
    hugePages: 'transparent',
    blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 2 ** 23 }],
  });
  const block = memory.blocks[0] as MappedRamBlock;
  expect(block.hostAddress % 2n ** 21n).toBe(0n);
  block.view(2 ** 21 + 5, 1)[0] = 1;
  expect([...block.populated()]).toEqual([{ firstPage: 512, pageCount: 512 }]);
  memory.close();
});

test('a walk over what is populated ends with the block: the number of its file may be another file by then', async () => {
  const { memory, block } = oneBlock(64 * 2 ** 20);
  for (const page of [0, 3, 6000, 12_000]) block.view(page * PAGE, 1)[0] = 1;
  const walk = block.populated();
  walk.next();
  const { fd } = block;
  memory.close();
  const reused = openSync('/proc/self/exe', 'r');
  expect(reused).toBe(fd);
  readSync(reused, new Uint8Array(10), 0, 10, null);
  expect((await errorOf(() => walk.next())).code).toBe('GODWIT_INVALID_STATE');
  expect([block.fd, memory.allocatedBytes()]).toEqual([null, 0]);
  expect((await errorOf(() => memory.attachment())).code).toBe('GODWIT_INVALID_STATE');
  // Where it was: nobody has moved the position of the file.
  const next = new Uint8Array(2);
  readSync(reused, next, 0, 2, null);
  const there = new Uint8Array(2);
  readSync(reused, there, 0, 2, 10);
  expect(next).toEqual(there);
  closeSync(reused);
});

test('a block whose owner has closed its file asks nobody about another one, and punches no holes into it', async () => {
  const { memory, block } = oneBlock(64 * PAGE);
  const fd = block.fd as number;
  const { hostAddress } = block;
  const attached = attachGuestMemory({
    blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 64 * PAGE, fd, hostAddress }],
  });
  memory.close();
  const other = oneBlock(64 * PAGE);
  expect(other.block.fd).toBe(fd);
  other.block.view(0, PAGE).fill(5);
  const [theirs] = attached.blocks;
  expect((await errorOf(() => [...(theirs?.populated() ?? [])])).message).toMatch(/its owner has closed it/);
  expect((await errorOf(() => theirs?.discard({ firstPage: 0, pageCount: 16 }))).code).toBe('GODWIT_INVALID_STATE');
  expect(other.block.view(0, 1)[0]).toBe(5);
  other.memory.close();
});

test('an option that does not exist is refused before anything is allocated', () => {
  const misspelt = { blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGE }], hugepages: 'transparent' };
  expect(() => createGuestMemory(misspelt as never)).toThrow(
    'createGuestMemory has no option "hugepages"; did you mean "hugePages"?',
  );
});
