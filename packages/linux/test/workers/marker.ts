import { workerData } from 'node:worker_threads';
import { WriteMarks, type WriteMarksStorage } from '@godwit/core';

/** Marks every so many pages, from the first one on. */
const { first, pages, step, marks } = workerData as {
  readonly first: number;
  readonly pages: number;
  readonly step: number;
  readonly marks: WriteMarksStorage;
};
const tracked = new WriteMarks(marks);
for (let page = first; page < pages; page += step) tracked.mark(0, page * 4096, 4096);
