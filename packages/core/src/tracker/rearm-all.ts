import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { TrackerUnion } from './tracker-union.js';

/** Pages whose words are passed in one call. */
const STEP_PAGES = 4096;

/**
 * Re-arms pages that a harvest has reported and that are not sent now: a tracker with deferred re-arm would otherwise report them at
 * each harvest, whether or not they were written again.
 */
export function rearmAll(tracker: Pick<TrackerUnion, 'rearmPages'>, bitmaps: DirtyBitmaps): void {
  const step = new Uint32Array(STEP_PAGES / 32);
  for (const [block, bitmap] of bitmaps.blocks.entries()) {
    for (let page = bitmap.nextDirty(0); page !== -1; ) {
      const firstPage = Math.floor(page / STEP_PAGES) * STEP_PAGES;
      const pageCount = Math.min(STEP_PAGES, bitmap.pageCount - firstPage);
      const words = step.subarray(0, Math.ceil(pageCount / 64) * 2);
      bitmap.copyWords(firstPage, words);
      tracker.rearmPages(block, firstPage, pageCount, words);
      page = bitmap.nextDirty(firstPage + pageCount);
    }
  }
}
