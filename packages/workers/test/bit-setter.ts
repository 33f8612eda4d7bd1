import { parentPort, workerData } from 'node:worker_threads';
import { DirtyBitmap } from '@godwit/core';

/** Sets every `step`-th page of a shared bitmap from `first` on, one by one, when everybody is there. */
const { storage, start, pages, first, step } = workerData as {
  storage: SharedArrayBuffer;
  start: Int32Array;
  pages: number;
  first: number;
  step: number;
};
const bitmap = new DirtyBitmap(pages, storage);
parentPort?.postMessage('here');
Atomics.wait(start, 0, 0);
for (let page = first; page < pages; page += step) bitmap.setRange(page, 1);
