import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import { populatedRuns, type RamBlock } from '../memory/guest-memory.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import type { PageRun } from '../memory/page-run.js';

/** A run of at least this many zero pages is discarded (its memory goes back to the host) instead of filled with zeros. */
const DISCARD_PAGES = 16;

/** Bytes that are filled before yielding to the event loop: about a millisecond. */
const FILL_BYTES = 8 * 2 ** 20;

/**
 * Makes a run read as zero: discards it where the block has a `discard` that does so, else writes zeros. In a long run that cannot
 * be discarded, only pages with memory behind them are written, and holes stay holes. Rejects with `GODWIT_LINK_LOST` once `isOver`.
 */
export async function zeroRun(
  windows: MemoryWindows,
  block: RamBlock,
  blockIndex: number,
  run: PageRun,
  clock: Clock,
  isOver: () => boolean = () => false,
): Promise<void> {
  if (isOver()) throw over();
  const fill = (part: PageRun): Promise<void> => fillRun(windows, blockIndex, part, clock, isOver);
  if (block.discard === undefined || run.pageCount < DISCARD_PAGES) return fill(run);
  // Only `false` means that the block has not discarded the run.
  if (block.discard(run) !== false) return;
  for (const part of [...populatedRuns(block, run)]) await fill(part);
}

async function fillRun(
  windows: MemoryWindows,
  blockIndex: number,
  run: PageRun,
  clock: Clock,
  isOver: () => boolean,
): Promise<void> {
  const step = Math.max(1, FILL_BYTES / windows.pageSize);
  const end = run.firstPage + run.pageCount;
  for (let page = run.firstPage; page < end; page += step) {
    // Once the migration is over, the embedder may have unmapped the memory.
    if (isOver()) throw over();
    const views: Uint8Array[] = [];
    windows.appendViews(views, blockIndex, page, Math.min(step, end - page));
    for (const view of views) view.fill(0);
    if (page + step < end) await clock.yield();
  }
}

function over(): GodwitError {
  return new GodwitError('GODWIT_LINK_LOST', 'the connection is over');
}
