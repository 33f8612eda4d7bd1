import { type DirtyBitmaps, GodwitError, type PageRun } from '@godwit/core';
import type { MappedGuestMemory } from '@godwit/linux';

/** Gives back the memory behind the pages, or those of `only`: from now on they are missing. */
export function giveUpContents({ blocks }: MappedGuestMemory, only?: DirtyBitmaps): void {
  for (const [index, block] of blocks.entries()) {
    for (const run of block.populated()) {
      if (only === undefined) discard(block, run);
      else for (const part of setRuns(only.at(index), run)) discard(block, part);
    }
  }
}

function discard(block: MappedGuestMemory['blocks'][number], run: PageRun): void {
  if (block.discard(run)) return;
  throw new GodwitError(
    'GODWIT_BLOCKED',
    `pages ${run.firstPage} to ${run.firstPage + run.pageCount - 1} of RAM block "${block.id}" are pinned, and cannot come anew`,
  );
}

/** The runs of set bits within a run of pages. */
function* setRuns(bitmap: DirtyBitmaps['blocks'][number], { firstPage, pageCount }: PageRun): Generator<PageRun> {
  const end = firstPage + pageCount;
  for (let first = bitmap.nextDirty(firstPage, end); first !== -1; ) {
    const stop = Math.min(bitmap.nextClean(first), end);
    yield { firstPage: first, pageCount: stop - first };
    if (stop >= end) return;
    first = bitmap.nextDirty(stop, end);
  }
}
