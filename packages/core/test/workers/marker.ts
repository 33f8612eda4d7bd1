import { workerData } from 'node:worker_threads';
import { WriteMarks, type WriteMarksStorage } from '@godwit/core';

/** Writes pages that a seed chooses, and marks each once it is written. */
const { seed, shared, marks, writes } = workerData as {
  readonly seed: number;
  readonly shared: SharedArrayBuffer;
  readonly marks: WriteMarksStorage;
  readonly writes: number;
};
const tracked = new WriteMarks(marks);
const written = new Int32Array(shared);
let state = seed;
for (let i = 0; i < writes; i++) {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  const page = (state >>> 8) % written.length;
  Atomics.add(written, page, 1);
  tracked.mark(0, page * 4096, 4096);
}
