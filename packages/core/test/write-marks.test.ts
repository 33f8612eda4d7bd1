import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { DirtyBitmaps, type DirtyTracker, SoftwareTracker, WriteMarks } from '@godwit/core';
import { BufferMemory } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';

const PAGE = 4096;
const PAGES = 70;

function memoryOf(pages = PAGES): BufferMemory {
  return new BufferMemory([{ id: 'ram', guestPhysicalAddress: 0, byteLength: pages * PAGE }]);
}

async function harvested(tracker: DirtyTracker, memory: BufferMemory): Promise<number[]> {
  const into = new DirtyBitmaps(memory);
  await tracker.harvest(into);
  return Array.from({ length: into.at(0).pageCount }, (_, page) => page).filter((page) => into.at(0).has(page));
}

test('marks are harvested once, between start and stop, whoever made them', async () => {
  const memory = memoryOf();
  const tracker = new SoftwareTracker(memory);
  const elsewhere = new WriteMarks(tracker.marks.storage);
  elsewhere.mark(0, 0, PAGE);
  await tracker.start();
  expect(await harvested(tracker, memory)).toEqual([]);
  tracker.mark(0, PAGE - 1, 2);
  elsewhere.mark(0, 69 * PAGE, 1);
  elsewhere.mark(0, 0, 0);
  expect(await harvested(tracker, memory)).toEqual([0, 1, 69]);
  expect(await harvested(tracker, memory)).toEqual([]);
  await tracker.stop();
  elsewhere.mark(0, 0, PAGE);
  await tracker.start();
  expect(await harvested(tracker, memory)).toEqual([]);
  expect(() => elsewhere.mark(1, 0, 1)).toThrow(expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT' }));
  expect(() => elsewhere.mark(0, PAGES * PAGE, 1)).toThrow(
    expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT' }),
  );
  await tracker.stop();
});

test('four threads mark pages that share words, each once, while all is harvested: every page is reported', async () => {
  const pages = 4 * 50_000;
  const memory = memoryOf(pages);
  const tracker = new SoftwareTracker(memory);
  await tracker.start();
  const url = new URL('./workers/marker.js', import.meta.url);
  const workers = [0, 1, 2, 3].map(
    (first) => new Worker(url, { workerData: { first, pages, step: 4, marks: tracker.marks.storage } }),
  );
  let running = true;
  const ended = Promise.all(workers.map((worker) => once(worker, 'exit'))).then(() => {
    running = false;
  });
  const reported = new DirtyBitmaps(memory);
  while (running) {
    for (let i = 0; i < 50; i++) tracker.marks.harvest(reported);
    await new Promise(setImmediate);
  }
  await ended;
  tracker.marks.harvest(reported);
  expect(reported.count()).toBe(pages);
});
