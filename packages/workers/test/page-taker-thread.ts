import { parentPort, workerData } from 'node:worker_threads';
import { type GuestMemory, type PageQueueBuffers, PageRunList } from '@godwit/core';
import { PageQueue, PageTaker } from '@godwit/core/pages';

/** Takes pages until there are no more, and counts each in shared memory. */
const { buffers, pageCounts, pass, counts, rearmed, start } = workerData as {
  buffers: PageQueueBuffers;
  pageCounts: readonly number[];
  pass: number;
  counts: readonly SharedArrayBuffer[];
  rearmed: readonly SharedArrayBuffer[];
  start: Int32Array;
};
const memory: GuestMemory = {
  pageSize: 4096,
  blocks: pageCounts.map((pages, block) => ({
    id: `block-${block}`,
    guestPhysicalAddress: block * 2 ** 40,
    byteLength: pages * 4096,
    view: () => new Uint8Array(),
  })),
};
const taken = counts.map((buffer) => new Uint8Array(buffer));
const armed = rearmed.map((buffer) => new Uint8Array(buffer));
const taker = new PageTaker(PageQueue.join(memory, buffers), memory, (block, firstPage, pageCount, words) => {
  for (let i = 0; i < pageCount; i++) {
    if (((words[i >> 5] as number) & (1 << (i % 32))) !== 0) Atomics.add(armed[block] as Uint8Array, firstPage + i, 1);
  }
});
taker.begin(pass);
const batch = { blockIndex: 0, runs: new PageRunList(), holes: new PageRunList() };
parentPort?.postMessage('here');
Atomics.wait(start, 0, 0);
let pages = 0;
for (let count = taker.take(batch, 256, 512); count > 0; count = taker.take(batch, 256, 512)) {
  pages += count;
  for (const { firstPage, pageCount } of batch.runs) {
    for (let page = firstPage; page < firstPage + pageCount; page++) {
      Atomics.add(taken[batch.blockIndex] as Uint8Array, page, 1);
    }
  }
}
parentPort?.postMessage(pages);
