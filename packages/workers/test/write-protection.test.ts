import { setImmediate } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { DirtyBitmaps, type ProtectedMemory } from '@godwit/core';
import { attachGuestMemory, createGuestMemory, type MappedGuestMemory, Userfaultfd } from '@godwit/linux';
import { MapFlags, mmap, munmap, Uffd } from '@godwit/linux/unstable';
import { type WriteProtectionOptions, writeProtection } from '@godwit/workers';
import { beforeEach, expect, test } from '@jest/globals';
import type { Gated } from './gated-target.js';
import { PAGE } from './pattern-source.js';
import { ThreadWatch } from './threads.js';
import { endings, testFaults } from './userfault-tests.js';

const MIB = 2 ** 20;
const PAGES = 1500;
const SECOND = 40;
/** Block 0 has these pages populated; the others are holes. Block 1 is populated. */
const POPULATED = 1200;
/** Pages that the saving thread reads before it has to wait for the target. */
const FIRST_BATCH = 256;

const ending = endings();

/** The kinds of guest memory: files, or anonymous memory, in huge pages if the host has them. */
const BACKINGS = ['file', 'auto'] as const;
let backing: (typeof BACKINGS)[number];
beforeEach(() => {
  backing = 'file';
});

interface Guarded {
  readonly memory: MappedGuestMemory;
  readonly pages: ProtectedMemory;
  readonly gated: Gated;
  /** 1: writes go through; 2: they fail. */
  open(how?: number): void;
  /** Writes a page of block 0 on this thread. */
  write(page: number, value?: number): void;
}

function guest(): MappedGuestMemory {
  const memory = createGuestMemory({
    backing,
    blocks: [
      { id: 'low', guestPhysicalAddress: 0, byteLength: PAGES * PAGE },
      { id: 'high', guestPhysicalAddress: 2 ** 32, byteLength: SECOND * PAGE },
    ],
  });
  ending.push(() => memory.close());
  for (const [i, pages] of [POPULATED, SECOND].entries()) {
    for (let page = 0; page < pages; page++) memory.blocks[i]?.view(page * PAGE, PAGE).fill(1 + ((page * 7 + i) % 250));
  }
  return memory;
}

function populatedOf(memory: MappedGuestMemory): DirtyBitmaps {
  const contents = new DirtyBitmaps(memory);
  for (const [i, block] of memory.blocks.entries()) {
    for (const { firstPage, pageCount } of block.populated()) contents.at(i).setRange(firstPage, pageCount);
  }
  return contents;
}

async function guarded(options: WriteProtectionOptions & { readonly impossible?: boolean } = {}): Promise<Guarded> {
  const { impossible = false, ...rest } = options;
  const memory = guest();
  const service = writeProtection(rest);
  ending.push(() => service.close());
  const gated: Gated = {
    saved: memory.blocks.map(({ byteLength }) => new SharedArrayBuffer(byteLength)),
    counts: memory.blocks.map(({ byteLength }) => new SharedArrayBuffer((byteLength / PAGE) * 4)),
    gate: new SharedArrayBuffer(4),
    impossible,
  };
  const gate = new Int32Array(gated.gate);
  const open = (how = 1) => {
    Atomics.store(gate, 0, how);
    Atomics.notify(gate, 0);
  };
  const module = new URL('gated-target.js', import.meta.url).href;
  const pages = await service.protect({
    memory,
    contents: populatedOf(memory),
    target: { module, make: 'gatedTarget', options: gated },
  });
  ending.push(() => {
    open();
    return pages.end();
  });
  const write = (page: number, value = 255) => {
    const bytes = memory.blocks[0]?.view(page * PAGE, PAGE) as Uint8Array;
    bytes[page % PAGE] = value;
  };
  return { memory, pages, gated, open, write };
}

/** A copy of the memory. Holes are not read, which would populate them. */
function copyOf(memory: MappedGuestMemory): Buffer[] {
  return memory.blocks.map((block) => {
    const copy = Buffer.alloc(block.byteLength);
    for (const { firstPage, pageCount } of block.populated()) {
      copy.set(block.view(firstPage * PAGE, pageCount * PAGE), firstPage * PAGE);
    }
    return copy;
  });
}

function expectSaved({ gated }: Guarded, moment: readonly Buffer[], extra: readonly number[] = []): void {
  const counts = gated.counts.map((buffer) => [...new Int32Array(buffer)]);
  const once = (count: number) => new Array(count).fill(1);
  const expected = [...once(POPULATED), ...new Array(PAGES - POPULATED).fill(0)];
  for (const page of extra) expected[page] = 1;
  expect(counts).toEqual([expected, once(SECOND)]);
  for (const [i, buffer] of gated.saved.entries())
    expect(Buffer.compare(Buffer.from(buffer), moment[i] as Buffer)).toBe(0);
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await setImmediate();
}

/** A thread that writes these pages of block 0, in order; resolves when it has written all of them. */
function writing(
  memory: MappedGuestMemory,
  pages: readonly number[],
): { readonly done: Promise<void>; ended: boolean } {
  const worker = new Worker(new URL('page-toucher.js', import.meta.url), { workerData: memory.attachment() });
  const state = { ended: false, done: Promise.resolve() };
  state.done = (async () => {
    await new Promise((resolve) => worker.once('message', resolve));
    for (const page of pages) {
      const stored = new Promise((resolve) => worker.once('message', resolve));
      worker.postMessage({ do: 'store', block: 0, page, value: -1 });
      await stored;
    }
    state.ended = true;
    await worker.terminate();
  })();
  ending.push(() => worker.terminate());
  return state;
}

const range = (first: number, end: number): number[] => Array.from({ length: end - first }, (_, i) => first + i);

function testEach(name: string, run: () => Promise<void>): void {
  for (const kind of BACKINGS) {
    testFaults(`${name} (${kind})`, async () => {
      backing = kind;
      await run();
    });
  }
}

testEach('every page is saved once, as it was at the freeze, whoever writes it before and after', async () => {
  const all = await guarded();
  const { memory, pages, open, write } = all;
  // On this thread: a device model of the event loop. Two holes are populated, too.
  for (const page of [3, 4, 5, 40, 1100, POPULATED - 1, POPULATED + 50, PAGES - 1]) write(page);
  expect(pages.status()).toMatchObject({ pagesTotal: 0, pagesCopied: 0, faults: 6 });
  const moment = copyOf(memory);
  expect(await pages.freeze()).toBe(8);
  expect(pages.status().pagesTotal).toBe(POPULATED + 2 + SECOND);
  // The saving thread waits in its first write: what is behind its batch is copied before it is written.
  await until(() => pages.status().pagesLeft < POPULATED + 2 + SECOND);
  for (const page of [...range(FIRST_BATCH + 44, FIRST_BATCH + 144), 1100, 3, PAGES - 1, POPULATED + 9])
    write(page, 254);
  memory.blocks[1]?.view(0, PAGE).fill(9);
  const { pagesCopied, faults, faultsWithoutRoom, bufferedBytes, bufferHighBytes, writtenBytes } = pages.status();
  expect(pagesCopied).toBeGreaterThanOrEqual(102);
  expect({ faultsWithoutRoom, writtenBytes }).toEqual({ faultsWithoutRoom: 0, writtenBytes: 0 });
  expect([bufferedBytes, bufferHighBytes]).toEqual([pagesCopied * PAGE, pagesCopied * PAGE]);
  // In order, so that one fault stands for many.
  expect(faults).toBeLessThan(60);
  open();
  await pages.saved;
  const status = pages.status();
  expect(status).toMatchObject({ pagesLeft: 0, bufferedBytes: 0, writtenBytes: (POPULATED + 2 + SECOND) * PAGE });
  expect(status.latencyDistribution.reduce((sum, count) => sum + count, 0)).toBe(status.faults);
  expectSaved(all, moment, [POPULATED + 50, PAGES - 1]);
  await pages.end();
});

testFaults('a full buffer makes the next write wait for the disk, and nothing else', async () => {
  const all = await guarded({ bufferBytes: MIB });
  const { memory, pages, open, write } = all;
  const moment = copyOf(memory);
  await pages.freeze();
  await until(() => pages.status().pagesLeft < POPULATED + SECOND);
  const thread = writing(memory, range(600, 1000));
  await until(() => pages.status().faultsWithoutRoom > 0);
  expect(pages.status()).toMatchObject({ bufferedBytes: MIB, bufferHighBytes: MIB, bufferBytes: MIB });
  // Saved already, or never populated: no room is needed.
  write(0);
  write(PAGES - 1);
  expect(thread.ended).toBe(false);
  open();
  await thread.done;
  await pages.saved;
  expect(pages.status().bufferHighBytes).toBe(MIB);
  expectSaved(all, moment);
});

testFaults('a target that fails lets every write through, at once and without the event loop', async () => {
  const { memory, pages, open, write } = await guarded({ bufferBytes: MIB });
  await pages.freeze();
  const thread = writing(memory, range(600, 1000));
  await until(() => pages.status().faultsWithoutRoom > 0);
  open(2);
  // On this thread, which cannot hear of the failure meanwhile.
  for (const page of range(1000, POPULATED)) write(page);
  await expect(pages.saved).rejects.toMatchObject({ code: 'GODWIT_SYSCALL', message: 'the disk is full' });
  await thread.done;
});

testFaults('where the thread that serves the faults fails, every write goes through', async () => {
  const { memory, pages, write } = await guarded();
  const block = memory.blocks[0] as MappedGuestMemory['blocks'][number];
  write(500);
  // The same page, mapped anew: it cannot be protected again.
  mmap({
    ...{ address: block.hostAddress + BigInt(500 * PAGE), byteLength: PAGE },
    ...{ flags: MapFlags.MAP_SHARED | MapFlags.MAP_FIXED, fd: block.fd as number },
    offset: block.fileOffset + 500 * PAGE,
  });
  await expect(pages.freeze()).rejects.toMatchObject({ code: 'GODWIT_SYSCALL' });
  await writing(memory, range(600, 1000)).done;
});

testEach('its end lifts the protection at once, whoever waits, and the memory can be protected again', async () => {
  const { memory, pages, open, write } = await guarded({ bufferBytes: MIB });
  await pages.freeze();
  const thread = writing(memory, range(600, 1000));
  await until(() => pages.status().faultsWithoutRoom > 0);
  const ended = pages.end();
  for (const page of range(1000, POPULATED)) write(page);
  await thread.done;
  await expect(pages.saved).rejects.toMatchObject({ code: 'GODWIT_INVALID_STATE' });
  await expect(pages.freeze()).rejects.toMatchObject({ code: 'GODWIT_INVALID_STATE' });
  open();
  await ended;
  const again = writeProtection();
  ending.push(() => again.close());
  expect(again.blockers(memory)).toEqual([]);
});

testFaults('no page is given back to the host between the freeze and the end', async () => {
  const all = await guarded();
  const { memory, pages, open } = all;
  const moment = copyOf(memory);
  const block = memory.blocks[0] as MappedGuestMemory['blocks'][number];
  await pages.freeze();
  expect(block.discard({ firstPage: 700, pageCount: 10 })).toBe(false);
  open();
  await pages.saved;
  expectSaved(all, moment);
  await pages.end();
  expect(block.discard({ firstPage: 700, pageCount: 10 })).toBe(true);
  expect([...block.populated({ firstPage: 700, pageCount: 10 })]).toEqual([]);
});

testFaults('memory that cannot be registered leaves no thread behind', async () => {
  const watch = new ThreadWatch();
  ending.push(() => watch.stop());
  const memory = guest();
  const service = writeProtection();
  ending.push(() => service.close());
  const protecting = service.protect({
    memory,
    contents: populatedOf(memory),
    target: { module: undefined, make: '', options: 0 },
  });
  // The threads are waited for after the memory was looked at.
  const { hostAddress, byteLength } = memory.blocks[0] as MappedGuestMemory['blocks'][number];
  const other = Userfaultfd.open(Uffd.UFFD_FEATURE_MISSING_SHMEM);
  ending.push(() => other.close());
  other.register(hostAddress, byteLength, Uffd.UFFDIO_REGISTER_MODE_MISSING);
  await expect(protecting).rejects.toMatchObject({ message: expect.stringContaining('another userfaultfd') });
  await service.close();
  expect([watch.started.length, watch.alive.size]).toEqual([2, 0]);
});

testFaults('a limit holds back what nobody waits for, and no copy', async () => {
  const all = await guarded();
  const { memory, pages, open, write } = all;
  const moment = copyOf(memory);
  pages.limit(1);
  open();
  await pages.freeze();
  await until(() => pages.status().writtenBytes > 0);
  const before = pages.status();
  write(1000);
  await until(() => pages.status().writtenBytes === before.writtenBytes + PAGE);
  expect(pages.status().pagesLeft).toBe(before.pagesLeft - 1);
  pages.limit(0);
  await pages.saved;
  expectSaved(all, moment);
});

testFaults('without a target nothing is protected', async () => {
  await expect(guarded({ impossible: true })).rejects.toMatchObject({
    message: expect.stringContaining('there is no such target'),
  });
});

testFaults('what cannot be protected is named', async () => {
  const service = writeProtection();
  ending.push(() => service.close());
  const memory = guest();
  const { blocks } = memory.attachment();
  const byAddress = attachGuestMemory({ blocks: blocks.map(({ fd: _, ...block }) => block) });
  const unpin = memory.blocks[1]?.pin({ firstPage: 1, pageCount: 1 });
  expect(service.blockers(memory)).toEqual([
    'RAM block "high" has pages that are pinned for a device, which writes them without a page fault',
  ]);
  await expect(
    service.protect({
      memory,
      contents: new DirtyBitmaps(memory),
      target: { module: undefined, make: '', options: 0 },
    }),
  ).rejects.toMatchObject({ code: 'GODWIT_BLOCKED', message: expect.stringContaining('"high" has pages') });
  unpin?.();
  expect(service.blockers(memory)).toEqual([]);
  expect(service.blockers(byAddress)).toEqual(
    ['low', 'high'].map((id) => expect.stringContaining(`RAM block "${id}" was attached without its memory file`)),
  );
  const address = mmap({ byteLength: PAGE, flags: MapFlags.MAP_SHARED, fd: memory.blocks[1]?.fd as number });
  expect(service.blockers(memory)).toEqual([
    expect.stringMatching(
      `"high" can be written through another mapping of its memory file in this process \\(at 0x${address.toString(16)}\\)`,
    ),
  ]);
  munmap(address, PAGE);
  expect(service.blockers(memory)).toEqual([]);
  const plain = { pageSize: PAGE, blocks: [{ ...memory.blocks[0], view: () => new Uint8Array(0) }] };
  expect(service.blockers(plain as never)).toEqual([expect.stringContaining('not of createGuestMemory')]);
});

test('a buffer that is no size of one is refused', () => {
  for (const bufferBytes of [0, MIB - 1, 1.5 * MIB + 0.5, 2 ** 33, '64M' as never]) {
    expect(() => writeProtection({ bufferBytes })).toThrow(
      expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT' }),
    );
  }
  expect(() => writeProtection({ size: 1 } as never)).toThrow(
    expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT' }),
  );
});
