import type { DirtyBitmaps, DirtyTracker } from '@godwit/core';

/** Pages that are re-armed with one call. */
const CHUNK_PAGES = 4096;

/**
 * Re-arms the pages that a harvest has reported, as the engine does before it reads them. A tracker with deferred re-arm would otherwise
 * report them at each harvest, whether or not they were written again.
 */
export function rearm(tracker: DirtyTracker, { blocks }: DirtyBitmaps): void {
  const chunk = new Uint32Array(CHUNK_PAGES / 32);
  for (const [index, bitmap] of blocks.entries()) {
    for (let page = bitmap.nextDirty(0); page !== -1; ) {
      const first = page - (page % CHUNK_PAGES);
      const count = Math.min(CHUNK_PAGES, bitmap.pageCount - first);
      const words = chunk.subarray(0, Math.ceil(count / 64) * 2);
      bitmap.copyWords(first, words);
      tracker.rearmPages?.(index, first, count, words);
      page = first + count < bitmap.pageCount ? bitmap.nextDirty(first + count) : -1;
    }
  }
}
