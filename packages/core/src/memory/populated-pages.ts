import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import type { DirtyBitmaps } from './dirty-bitmaps.js';
import { type GuestMemory, pagesOf, populatedRuns, RAM_WINDOW_BYTES } from './guest-memory.js';
import { type PageRun, PageRunList } from './page-run.js';

/**
 * Sets the bits of all populated pages in `into`, shared blocks left out: these are the dirty bitmaps of round 1, or the pages of a
 * destination that have to be cleared. Rejects with the reason of `signal` when that aborts, and then reads no further memory.
 */
export async function populatedBitmaps(
  memory: GuestMemory,
  into: DirtyBitmaps,
  clock: Clock,
  signal: AbortSignal,
): Promise<void> {
  for (const [blockIndex, block] of memory.blocks.entries()) {
    if (block.shared) continue;
    const bitmap = into.at(blockIndex);
    const pages = pagesOf(memory, block);
    const step = RAM_WINDOW_BYTES / memory.pageSize;
    for (let firstPage = 0; firstPage < pages; firstPage += step) {
      const range = { firstPage, pageCount: Math.min(step, pages - firstPage) };
      for (const run of populatedRuns(block, range)) bitmap.setRange(run.firstPage, run.pageCount);
      await clock.yield();
      signal.throwIfAborted();
    }
  }
}

/**
 * Splits dirty runs into populated ones (`present`) and holes. Both inputs must ascend. Throws `GODWIT_INVALID_ARGUMENT` when
 * `populated` does not ascend, since a page that is wrongly taken for a hole would be lost.
 */
export function cutHoles(
  runs: PageRunList,
  populated: Iterable<PageRun>,
  present: PageRunList,
  holes: PageRunList,
): void {
  const extents = ascending(populated);
  let at = 0;
  for (let i = 0; i < runs.length; i++) {
    let page = runs.firstPage(i);
    const end = page + runs.runPages(i);
    while (page < end) {
      while (at < extents.length && extents.firstPage(at) + extents.runPages(at) <= page) at++;
      const first = at < extents.length ? extents.firstPage(at) : end;
      if (first > page) {
        const stop = Math.min(first, end);
        holes.push(page, stop - page);
        page = stop;
      } else {
        const stop = Math.min(end, first + extents.runPages(at));
        present.push(page, stop - page);
        page = stop;
      }
    }
  }
}

function ascending(populated: Iterable<PageRun>): PageRunList {
  const extents = new PageRunList();
  let end = 0;
  for (const { firstPage, pageCount } of populated) {
    if (!(firstPage >= end && pageCount >= 0)) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        `populated() must list runs in ascending order, but pages ${firstPage} + ${pageCount} come after page ${end}`,
      );
    }
    end = firstPage + pageCount;
    extents.push(firstPage, pageCount);
  }
  return extents;
}
