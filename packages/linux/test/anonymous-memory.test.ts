import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import {
  attachGuestMemory,
  createGuestMemory,
  type GuestMemoryOptions,
  hostSupport,
  type MappedGuestMemory,
  type MappedRamBlock,
  PagemapTracker,
  pinHostMemory,
} from '@godwit/linux';
import { HOST_PAGE_SIZE } from '@godwit/linux/unstable';
import { afterEach, expect, test } from '@jest/globals';
import { errorOf } from './error-of.js';
import { testWhen } from './when-usable.js';

const PAGE = HOST_PAGE_SIZE;
const MIB = 2 ** 20;
const { pagemapScan, asyncWriteProtect, anonymousHugePages } = hostSupport();
const testScan = testWhen(pagemapScan);

const made: MappedGuestMemory[] = [];
afterEach(() => {
  for (const memory of made.splice(0)) memory.close();
});

function anonymous(
  byteLength: number,
  options: Partial<GuestMemoryOptions> = {},
): { memory: MappedGuestMemory; block: MappedRamBlock } {
  const blocks = [{ id: 'ram', guestPhysicalAddress: 0, byteLength }];
  const memory = createGuestMemory({ backing: 'anonymous', overcommit: true, blocks, ...options });
  made.push(memory);
  return { memory, block: memory.blocks[0] as MappedRamBlock };
}

testScan('it has no file and no name, and a thread of the process sees the same bytes and holes', async () => {
  const { memory, block } = anonymous(64 * PAGE);
  expect([block.fd, block.identity, block.memoryFile(), block.filePageSize]).toEqual([
    null,
    undefined,
    undefined,
    undefined,
  ]);
  block.view(9 * PAGE, 1)[0] = 41;
  const worker = new Worker(new URL('./workers/page-writer.js', import.meta.url), { workerData: memory.attachment() });
  worker.postMessage([9, 10]);
  await once(worker, 'message');
  worker.postMessage(null);
  await once(worker, 'exit');
  expect([block.view(9 * PAGE, 1)[0], block.view(10 * PAGE, 1)[0]]).toEqual([42, 1]);
  expect([...block.populated()]).toEqual([{ firstPage: 9, pageCount: 2 }]);
  const [there] = attachGuestMemory(memory.attachment()).blocks;
  expect([...(there?.populated() ?? [])]).toEqual([{ firstPage: 9, pageCount: 2 }]);
  expect(there?.discard({ firstPage: 9, pageCount: 1 })).toBe(true);
  expect([block.view(9 * PAGE, 1)[0], memory.allocatedBytes()]).toEqual([0, PAGE]);
});

testScan('a sparse guest of a TiB costs what it touches, and so does a walk over it', () => {
  const { memory, block } = anonymous(2 ** 40);
  const pages = [0, 513, 2 ** 20, 2 ** 28 - 1];
  for (const page of pages) block.view(page * PAGE, 1)[0] = 1;
  expect([...block.populated()]).toEqual(pages.map((firstPage) => ({ firstPage, pageCount: 1 })));
  expect(memory.allocatedBytes()).toBe(pages.length * PAGE);
});

testScan('more runs of pages than fit into one call', () => {
  const { block } = anonymous(8 * MIB);
  for (let page = 0; page < 2048; page += 2) block.view(page * PAGE, 1)[0] = 1;
  const runs = [...block.populated({ firstPage: 1, pageCount: 2047 })];
  expect(runs).toEqual(Array.from({ length: 1023 }, (_, i) => ({ firstPage: 2 * i + 2, pageCount: 1 })));
});

testWhen(pagemapScan, asyncWriteProtect)('holes that a tracker has protected are still holes', async () => {
  const { memory, block } = anonymous(4 * MIB);
  block.view(5 * PAGE, 1)[0] = 1;
  const tracker = PagemapTracker.forMemory(memory);
  await tracker.start();
  try {
    block.view(600 * PAGE, 1)[0] = 1;
    expect([...block.populated()]).toEqual([
      { firstPage: 5, pageCount: 1 },
      { firstPage: 600, pageCount: 1 },
    ]);
    expect(memory.allocatedBytes()).toBe(2 * PAGE);
  } finally {
    await tracker.stop();
  }
});

testScan('pinned pages are not discarded', () => {
  const { block } = anonymous(4 * MIB);
  block.view(0, 4 * MIB).fill(7);
  const unpin = pinHostMemory(block.hostAddress + BigInt(MIB), PAGE);
  expect(block.discard({ firstPage: 0, pageCount: 1024 })).toBe(false);
  expect(block.view(0, 1)[0]).toBe(7);
  unpin();
  expect(block.discard({ firstPage: 0, pageCount: 1024 })).toBe(true);
  expect(block.view(0, 1)[0]).toBe(0);
});

testScan('a walk ends with the block: another mapping may be where it was', async () => {
  const { memory, block } = anonymous(8 * MIB);
  for (let page = 0; page < 2048; page += 2) block.view(page * PAGE, 1)[0] = 1;
  const walk = block.populated();
  walk.next();
  memory.close();
  const rest = await errorOf(() => [...walk]);
  expect(rest.code).toBe('GODWIT_INVALID_STATE');
  expect(memory.allocatedBytes()).toBe(0);
});

testWhen(anonymousHugePages)('one touched byte takes a huge page', () => {
  const { block } = anonymous(8 * MIB, { hugePages: 'transparent' });
  expect(block.hostAddress % BigInt(2 * MIB)).toBe(0n);
  block.view(2 * MIB + 5, 1)[0] = 1;
  expect([...block.populated()]).toEqual([{ firstPage: 512, pageCount: 512 }]);
  expect(block.allocatedBytes()).toBe(2 * MIB);
  const auto = anonymous(8 * MIB, { backing: 'auto' }).block;
  auto.view(0, 1)[0] = 1;
  expect([auto.anonymous, auto.allocatedBytes()]).toEqual([true, 2 * MIB]);
});

test('auto is a file where an option wants one', () => {
  const blocks = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGE, shared: true as const }];
  expect(anonymous(PAGE, { backing: 'auto', blocks }).block.fd).not.toBeNull();
});

test.each<[string, Partial<GuestMemoryOptions>, RegExp]>([
  ['reserved huge pages', { hugePages: '2MiB' }, /2MiB.* come as memory files/],
  [
    'a shared block',
    { blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGE, shared: true }] },
    /RAM block ram cannot be shared/,
  ],
  ['a backing that there is not', { backing: 'memfd' as never }, /'file', 'anonymous' or 'auto', got 'memfd'/],
])('refuses %s', async (_, options, message) => {
  const error = await errorOf(() => anonymous(PAGE, options));
  expect([error.code, error.message]).toEqual(['GODWIT_INVALID_ARGUMENT', expect.stringMatching(message)]);
});

testScan('it is attached by its address alone', async () => {
  const { memory } = anonymous(PAGE);
  const [block] = memory.attachment().blocks;
  if (block === undefined) throw new Error('no block');
  const { hostAddress, ...placed } = block;
  for (const wrong of [placed, { ...block, fd: 0 }]) {
    const error = await errorOf(() => attachGuestMemory({ blocks: [wrong] }));
    expect([error.code, error.message]).toEqual([
      'GODWIT_INVALID_ARGUMENT',
      expect.stringMatching(/anonymous memory, which is attached by its address and has no file/),
    ]);
  }
});
