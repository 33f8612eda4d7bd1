import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { DirtyBitmaps, SoftwareTracker } from '@godwit/core';
import { BufferMemory } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';

const PAGE = 4096;

test('four threads mark pages that share words, each once, while all is harvested: every page is reported', async () => {
  const pages = 4 * 50_000;
  const memory = new BufferMemory([{ id: 'ram', guestPhysicalAddress: 0, byteLength: pages * PAGE }]);
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
