import type { DirtyBitmaps, DirtyTracker } from '@godwit/core';

/** Pages that the engine re-arms in one call. */
const CHUNK_PAGES = 4096;

/** Re-arms the pages that a harvest has reported, as the engine does. */
export function rearm(tracker: DirtyTracker, { blocks }: DirtyBitmaps): void {
  const words = new Uint32Array(CHUNK_PAGES / 32);
  for (const [index, bitmap] of blocks.entries()) {
    for (let page = bitmap.nextDirty(0); page !== -1; ) {
      const first = page - (page % CHUNK_PAGES);
      const count = Math.min(CHUNK_PAGES, bitmap.pageCount - first);
      bitmap.copyWords(first, words);
      tracker.rearmPages?.(index, first, count, words);
      page = first + count < bitmap.pageCount ? bitmap.nextDirty(first + count) : -1;
    }
  }
}
