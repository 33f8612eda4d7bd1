import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { type GuestMemory, PageRunList, pagesOf } from '@godwit/core';
import { PageQueue } from '@godwit/core/pages';
import { expect, jest, test } from '@jest/globals';

jest.setTimeout(60_000);

const PAGE_COUNTS = [3 * 2 ** 17 + 5, 70, 2 ** 16];

function memoryOf(pageCounts: readonly number[]): GuestMemory {
  return {
    pageSize: 4096,
    blocks: pageCounts.map((pages, block) => ({
      id: `block-${block}`,
      guestPhysicalAddress: block * 2 ** 40,
      byteLength: pages * 4096,
      view: () => new Uint8Array(),
    })),
  };
}

/**
 * Resolves with the number of pages that a thread has taken: the message after the one that says that it is there. Both may be delivered in
 * one turn of the event loop, so that one listener takes both.
 */
function pagesTaken(worker: Worker): Promise<number> {
  return new Promise((resolve, reject) => {
    worker.on('message', (message: unknown) => {
      if (typeof message === 'number') resolve(message);
    });
    worker.once('error', reject);
  });
}

test.each([
  ['every page', 1],
  ['every third page', 3],
  ['one page of a thousand', 1000],
])('threads that take from one queue get each page once: %s', async (_, step) => {
  const memory = memoryOf(PAGE_COUNTS);
  const queue = PageQueue.create(memory);
  for (const bitmap of queue.owed.blocks) {
    for (let page = 0; page < bitmap.pageCount; page += step) bitmap.set(page);
  }
  const owed = queue.count();
  /** How often each page was taken, one byte a page, and how often it was re-armed. */
  const counts = memory.blocks.map((block) => new SharedArrayBuffer(pagesOf(memory, block)));
  const rearmed = memory.blocks.map((block) => new SharedArrayBuffer(pagesOf(memory, block)));
  const start = new Int32Array(new SharedArrayBuffer(4));
  const workers = [0, 1, 2, 3].map(
    () =>
      new Worker(new URL('./page-taker-thread.js', import.meta.url), {
        workerData: { buffers: queue.buffers, pageCounts: PAGE_COUNTS, pass: queue.open(), counts, rearmed, start },
        execArgv: [],
      }),
  );
  // The last pass counts: the threads of the earlier ones get nothing.
  const taken = workers.map(pagesTaken);
  const ended = workers.map((worker) => once(worker, 'exit'));
  Atomics.store(start, 0, 1);
  Atomics.notify(start, 0);
  const [first, second, third, last] = await Promise.all(taken);
  await Promise.all(ended);
  expect([first, second, third, last]).toEqual([0, 0, 0, owed]);
  expect([queue.count(), queue.taken.count()]).toEqual([0, owed]);
  expectEach(counts, step);
  expectEach(rearmed, step);
});

test('threads of the same pass share it', async () => {
  const memory = memoryOf(PAGE_COUNTS);
  const queue = PageQueue.create(memory);
  queue.owed.setAll();
  const owed = queue.count();
  const counts = memory.blocks.map((block) => new SharedArrayBuffer(pagesOf(memory, block)));
  const rearmed = memory.blocks.map((block) => new SharedArrayBuffer(pagesOf(memory, block)));
  const start = new Int32Array(new SharedArrayBuffer(4));
  const pass = queue.open();
  const workers = [0, 1, 2, 3].map(
    () =>
      new Worker(new URL('./page-taker-thread.js', import.meta.url), {
        workerData: { buffers: queue.buffers, pageCounts: PAGE_COUNTS, pass, counts, rearmed, start },
        execArgv: [],
      }),
  );
  const taken = workers.map(pagesTaken);
  await Promise.all(workers.map((worker) => once(worker, 'message')));
  Atomics.store(start, 0, 1);
  Atomics.notify(start, 0);
  // Pages of all blocks that are asked for, while the threads take.
  const asked = new PageRunList();
  const counted = counts.map((count) => new Uint8Array(count));
  let answered = 0;
  for (let i = 0; i < 500; i++) {
    const [block, page] = [i % 3, (i * 7919) % (PAGE_COUNTS[i % 3] as number)];
    asked.clear();
    if (queue.takeRange(block, page, 1, asked) === 0) continue;
    answered++;
    Atomics.add(counted[block] as Uint8Array, page, 1);
  }
  const pages = await Promise.all(taken);
  expect(pages.reduce((sum, each) => sum + each, answered)).toBe(owed);
  expect(queue.count()).toBe(0);
  expectEach(counts, 1);
});

/** Each `step`-th page has a count of 1, the others of 0. */
function expectEach(counts: readonly SharedArrayBuffer[], step: number): void {
  for (const buffer of counts) {
    const bytes = new Uint8Array(buffer);
    const wrong = bytes.findIndex((count, page) => count !== (page % step === 0 ? 1 : 0));
    expect(wrong).toBe(-1);
  }
}
