import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import { PageRunList } from '../memory/page-run.js';
import type { DirtyTracker } from './dirty-tracker.js';

/** `rearm` takes ranges whose ends are multiples of this many pages. */
const REARM_UNIT = 64;

/**
 * Re-arms pages that a harvest has reported and that are not sent now: without it a tracker with deferred re-arm reports them at each
 * harvest, whether they were written again or not.
 */
export function rearmAll(tracker: DirtyTracker, bitmaps: DirtyBitmaps): void {
  if (tracker.rearm === undefined) return;
  for (const [blockIndex, bitmap] of bitmaps.blocks.entries()) {
    const runs = bitmap.runs(new PageRunList());
    let end = 0;
    for (let i = 0; i < runs.length; i++) {
      const first = Math.max(end, runs.firstPage(i) - (runs.firstPage(i) % REARM_UNIT));
      const last = runs.firstPage(i) + runs.runPages(i);
      const stop = Math.min(bitmap.pageCount, last + (-last & (REARM_UNIT - 1)));
      if (stop <= first) continue;
      tracker.rearm(blockIndex, first, stop - first);
      end = stop;
    }
  }
}
