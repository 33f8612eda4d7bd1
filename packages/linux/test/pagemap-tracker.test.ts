import { once } from 'node:events';
import { accessSync, constants, mkdtempSync, openSync, readSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { open as openFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { DirtyBitmaps, WriteMarks } from '@godwit/core';
import {
  createGuestMemory,
  type GuestMemoryOptions,
  hostSupport,
  Kvm,
  type MappedGuestMemory,
  type MappedRamBlock,
  PagemapTracker,
} from '@godwit/linux';
import { HOST_PAGE_SIZE } from '@godwit/linux/unstable';
import { afterEach, expect, jest, test } from '@jest/globals';
import fc from 'fast-check';
import { errorOf } from './error-of.js';
import { timeLimit } from './time-limit.js';
import { testWhen } from './when-usable.js';
import { WritingGuest } from './writing-guest.js';

/** Properties make many system calls; a loaded machine takes its time. */
jest.setTimeout(timeLimit(60_000));

const PAGE = HOST_PAGE_SIZE;
const { asyncWriteProtect, pagemapScan, kvm } = hostSupport();
const testPagemap = testWhen(asyncWriteProtect, pagemapScan);
const testPagemapWithKvm = testWhen(asyncWriteProtect, pagemapScan, kvm);

const open: { memory: MappedGuestMemory; tracker: PagemapTracker }[] = [];
afterEach(async () => {
  for (const { memory, tracker } of open.splice(0)) {
    await tracker.stop();
    memory.close();
  }
});

function tracked(
  pagesOfBlocks: readonly number[],
  pageSize = PAGE,
  backing: GuestMemoryOptions['backing'] = 'file',
): { memory: MappedGuestMemory; tracker: PagemapTracker } {
  let guestPhysicalAddress = 0;
  const blocks = pagesOfBlocks.map((pages, i) => {
    const block = { id: `ram${i}`, guestPhysicalAddress, byteLength: pages * pageSize };
    guestPhysicalAddress += block.byteLength;
    return block;
  });
  const memory = createGuestMemory({ pageSize, blocks, overcommit: true, backing });
  const made = { memory, tracker: PagemapTracker.forMemory(memory) };
  open.push(made);
  return made;
}

function blockOf(memory: MappedGuestMemory, index = 0): MappedRamBlock {
  return memory.blocks[index] as MappedRamBlock;
}

async function harvested(memory: MappedGuestMemory, tracker: PagemapTracker): Promise<number[][]> {
  const bitmaps = new DirtyBitmaps(memory);
  await tracker.harvest(bitmaps);
  return bitmaps.blocks.map((bitmap) => {
    const pages: number[] = [];
    for (let page = bitmap.nextDirty(0); page !== -1; page = bitmap.nextDirty(page + 1)) pages.push(page);
    return pages;
  });
}

/** Block, page, and the way to write it. */
const PAGES = [700, 129] as const;
const write = fc.record({
  block: fc.nat(1),
  page: fc.nat(699),
  run: fc.integer({ min: 1, max: 80 }),
  by: fc.constantFrom('store' as const, 'read(2)' as const, 'nothing but a load' as const),
});

testPagemap('every round reports exactly the pages that were written, by stores and by system calls', async () => {
  const zeros = openSync('/dev/zero', 'r');
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(PAGE, 4 * PAGE),
      fc.constantFrom('file' as const, 'anonymous' as const, 'auto' as const),
      fc.array(fc.array(write, { maxLength: 12 }), { minLength: 1, maxLength: 6 }),
      async (pageSize, backing, rounds) => {
        const { memory, tracker } = tracked(PAGES, pageSize, backing);
        // Populated before the start: still clean at the first harvest.
        blockOf(memory)
          .view(0, 64 * pageSize)
          .fill(1);
        await tracker.start();
        for (const round of rounds) {
          const expected = [new Set<number>(), new Set<number>()];
          for (const { block, page, run, by } of round) {
            const count = PAGES[block] as number;
            const first = page % count;
            const length = Math.min(run, count - first);
            const view = blockOf(memory, block).view(first * pageSize, length * pageSize);
            if (by === 'read(2)') readSync(zeros, view);
            else
              for (let i = 0; i < length; i++) view[i * pageSize] = by === 'store' ? 7 : (view[i * pageSize] as number);
            for (let i = 0; i < length; i++) expected[block]?.add(first + i);
          }
          const wanted = expected.map((pages) => [...pages].sort((a, b) => a - b));
          expect(await harvested(memory, tracker)).toEqual(wanted);
        }
        expect(await harvested(memory, tracker)).toEqual([[], []]);
        await tracker.stop();
        memory.close();
      },
    ),
    { numRuns: 90 },
  );
});

testPagemap('loads dirty nothing', async () => {
  const { memory, tracker } = tracked([256]);
  const block = blockOf(memory);
  block.view(0, 128 * PAGE).fill(1);
  await tracker.start();
  let sum = 0;
  for (let page = 0; page < 256; page++) sum += block.view(page * PAGE, 1)[0] as number;
  expect(sum).toBe(128);
  expect(await harvested(memory, tracker)).toEqual([[]]);
});

testPagemap('holes stay holes and are not dirty, in a guest of 8 GiB, and the event loop turns meanwhile', async () => {
  const pages = 2 ** 33 / PAGE;
  const { memory, tracker } = tracked([pages]);
  const block = blockOf(memory);
  block.view(2 ** 30, 1)[0] = 1;
  let turns = 0;
  const turning = setInterval(() => turns++, 1);
  await tracker.start();
  expect(turns).toBeGreaterThan(1);
  expect(await harvested(memory, tracker)).toEqual([[]]);
  clearInterval(turning);
  expect(memory.allocatedBytes()).toBe(PAGE);
  block.view(2 ** 32, 1)[0] = 1;
  block.view(2 ** 33 - 1, 1)[0] = 1;
  expect(await harvested(memory, tracker)).toEqual([[2 ** 32 / PAGE, pages - 1]]);
  expect(memory.allocatedBytes()).toBe(3 * PAGE);
});

testPagemap('more runs than one system call can return are all reported', async () => {
  const pages = 40_000;
  const { memory, tracker } = tracked([pages]);
  await tracker.start();
  const block = blockOf(memory);
  for (let page = 0; page < pages; page += 2) block.view(page * PAGE, 1)[0] = 1;
  const [dirty] = await harvested(memory, tracker);
  expect(dirty?.length).toBe(pages / 2);
  expect(dirty?.every((page, i) => page === i * 2)).toBe(true);
  expect(await harvested(memory, tracker)).toEqual([[]]);
});

testPagemap('a worker that writes through the same mapping while we harvest loses nothing', async () => {
  const { memory, tracker } = tracked([4096]);
  await tracker.start();
  const stop = new Int32Array(new SharedArrayBuffer(4));
  const worker = new Worker(new URL('./workers/busy-writer.js', import.meta.url), {
    workerData: { attachment: memory.attachment(), stop },
  });
  await once(worker, 'message');
  const block = blockOf(memory);
  const copy = new Uint8Array(block.byteLength);
  // A migration in small: after each harvest the dirty pages are copied, while the worker goes on writing.
  const dirty = new DirtyBitmaps(memory);
  const same = (): boolean => Buffer.compare(copy, block.view(0, block.byteLength)) === 0;
  for (let rounds = 0; rounds < 30; ) {
    dirty.clearAll();
    await tracker.harvest(dirty);
    copyDirty(dirty, block, copy);
    // On a busy machine the worker may not have run since the last round, which then says nothing.
    if (!dirty.isEmpty()) rounds++;
    await setTimeout(1);
  }
  while (same()) await setTimeout(1);
  Atomics.store(stop, 0, 1);
  await once(worker, 'exit');
  dirty.clearAll();
  await tracker.harvest(dirty);
  copyDirty(dirty, block, copy);
  expect(same()).toBe(true);
});

/** A folder on a disk; in a machine that has the project read-only, one in memory, whose reads with O_DIRECT write guest memory too. */
function diskFolder(): string {
  try {
    accessSync(import.meta.dirname, constants.W_OK);
    return import.meta.dirname;
  } catch {
    return tmpdir();
  }
}

function copyDirty(dirty: DirtyBitmaps, block: MappedRamBlock, into: Uint8Array): void {
  const bitmap = dirty.at(0);
  for (let page = bitmap.nextDirty(0); page !== -1; page = bitmap.nextDirty(page + 1)) {
    into.set(block.view(page * PAGE, PAGE), page * PAGE);
  }
}

testPagemapWithKvm('the stores of a KVM guest are seen', async () => {
  const { memory, tracker } = tracked([64]);
  const block = blockOf(memory);
  const machine = Kvm.open();
  const guest = new WritingGuest(machine, [{ hostAddress: block.hostAddress, view: block.view(0, block.byteLength) }]);
  await tracker.start();
  // The list of what to write is itself written here, into page 1.
  guest.write([
    { address: 20 * PAGE + 4, value: 0x01020304 },
    { address: 63 * PAGE, value: 9 },
  ]);
  expect(block.view(20 * PAGE + 4, 1)[0]).toBe(4);
  expect(await harvested(memory, tracker)).toEqual([[1, 20, 63]]);
  expect(await harvested(memory, tracker)).toEqual([[]]);
  guest.close();
  machine.close();
});

testPagemap('what it says it cannot see, it does not see', async () => {
  const { memory, tracker } = tracked([16]);
  const block = blockOf(memory);
  block.view(0, 16 * PAGE).fill(1);
  await tracker.start();
  writeSync(block.fd as number, new Uint8Array([9]), 0, 1, 3 * PAGE);
  expect(block.view(3 * PAGE, 1)[0]).toBe(9);
  expect(await harvested(memory, tracker)).toEqual([[]]);
  expect(tracker.blindSpots).toMatch(/pwrite.*O_DIRECT, io_uring, vhost/);
});

testPagemap('what is marked is reported once, from any thread, between start and stop', async () => {
  const { memory, tracker } = tracked([700, 16]);
  tracker.mark(0, 0, PAGE);
  await tracker.start();
  expect(await harvested(memory, tracker)).toEqual([[], []]);
  tracker.mark(0, 698 * PAGE + 4095, 2);
  new WriteMarks(tracker.marks.storage).mark(1, 3 * PAGE, PAGE);
  expect(await harvested(memory, tracker)).toEqual([[698, 699], [3]]);
  expect(await harvested(memory, tracker)).toEqual([[], []]);
  expect((await errorOf(() => tracker.mark(1, 16 * PAGE, 1))).code).toBe('GODWIT_INVALID_ARGUMENT');
  tracker.mark(0, 0, PAGE);
  await tracker.stop();
  tracker.mark(0, 0, PAGE);
});

testPagemap('reads with O_DIRECT that are in flight while pages are re-armed: marked, none is lost', async () => {
  const pages = 1024;
  const { memory, tracker } = tracked([pages]);
  const view = blockOf(memory).view(0, pages * PAGE);
  const folder = mkdtempSync(join(diskFolder(), 'o-direct-'));
  const path = join(folder, 'disk');
  writeFileSync(path, new Uint8Array(pages * PAGE).fill(0x11));
  const disk = await openFile(path, constants.O_RDONLY | constants.O_DIRECT);
  try {
    await tracker.start();
    const copy = new Uint8Array(pages * PAGE);
    const copyReported = async (): Promise<void> => {
      const [reported] = await harvested(memory, tracker);
      for (const page of reported ?? []) copy.set(view.subarray(page * PAGE, (page + 1) * PAGE), page * PAGE);
    };
    for (let round = 0; round < 4; round++) {
      view.fill(0xee);
      await copyReported();
      let reading = true;
      const read = (first: number) =>
        disk
          .read(view, first * PAGE, 64 * PAGE, first * PAGE)
          .then(({ bytesRead }) => tracker.mark(0, first * PAGE, bytesRead));
      const reads = Promise.all(Array.from({ length: pages / 64 }, (_, i) => read(i * 64))).then(() => {
        reading = false;
      });
      while (reading) await copyReported();
      await reads;
      await copyReported();
      expect(Buffer.compare(copy, view)).toBe(0);
    }
  } finally {
    await disk.close();
    rmSync(folder, { recursive: true });
  }
});

testPagemap('harvests OR into what is there', async () => {
  const { memory, tracker } = tracked([64]);
  await tracker.start();
  const bitmaps = new DirtyBitmaps(memory);
  bitmaps.at(0).set(5);
  blockOf(memory).view(6 * PAGE, 1)[0] = 1;
  await tracker.harvest(bitmaps);
  expect([bitmaps.at(0).count(), bitmaps.at(0).has(5), bitmaps.at(0).has(6)]).toEqual([2, true, true]);
});

testPagemap('starting, stopping and starting again', async () => {
  const { memory, tracker } = tracked([64]);
  const bitmaps = new DirtyBitmaps(memory);
  expect((await errorOf(() => tracker.harvest(bitmaps))).code).toBe('GODWIT_INVALID_STATE');
  await tracker.start();
  expect((await errorOf(() => tracker.start())).code).toBe('GODWIT_INVALID_STATE');
  expect((await errorOf(() => Promise.all([tracker.harvest(bitmaps), tracker.harvest(bitmaps)]))).code).toBe(
    'GODWIT_INVALID_STATE',
  );
  // A second tracker of the same memory: a range belongs to one userfaultfd.
  const second = PagemapTracker.forMemory(memory);
  expect(await errorOf(() => second.start())).toMatchObject({
    code: 'GODWIT_TRACKER_FAILED',
    message: expect.stringContaining('EBUSY'),
  });
  await tracker.stop();
  await tracker.stop();
  blockOf(memory).view(0, 1)[0] = 1;
  await second.start();
  expect(await harvested(memory, second)).toEqual([[]]);
  blockOf(memory).view(PAGE, 1)[0] = 1;
  expect(await harvested(memory, second)).toEqual([[1]]);
  await second.stop();
});

test('ranges that are no whole pages are refused', async () => {
  const range = { address: 4096n, byteLength: PAGE, blockIndex: 0, firstPage: 0 };
  for (const wrong of [{ address: 1n }, { byteLength: 100 }, { byteLength: 0 }]) {
    const error = await errorOf(() => new PagemapTracker({ ranges: [{ ...range, ...wrong }] }));
    expect(error.code).toBe('GODWIT_INVALID_ARGUMENT');
  }
  expect((await errorOf(() => new PagemapTracker({ ranges: [range], pageSize: PAGE + 1 }))).code).toBe(
    'GODWIT_INVALID_ARGUMENT',
  );
});

testPagemap('memory that is not mapped fails the start, and the failed tracker holds nothing', async () => {
  const tracker = new PagemapTracker({ ranges: [{ address: 4096n, byteLength: PAGE, blockIndex: 0, firstPage: 0 }] });
  expect((await errorOf(() => tracker.start())).code).toBe('GODWIT_TRACKER_FAILED');
  expect((await errorOf(() => tracker.start())).code).toBe('GODWIT_TRACKER_FAILED');
  await tracker.stop();
});
