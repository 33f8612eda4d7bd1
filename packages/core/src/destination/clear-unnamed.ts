import type { Clock } from '../clock.js';
import type { RamBlock } from '../memory/guest-memory.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import type { PageBoard } from './page-board.js';
import { zeroRun } from './zero-run.js';

/** Milliseconds of continuous work after which the event loop gets a turn. */
const YIELD_AFTER_MS = 2;

/** Runs after which the clock is read. */
const RUNS_PER_CLOCK_READ = 64;

/**
 * At the end of round 1, zeroes the pages that the round has not named and that may have contents from before the migration: they are
 * holes at the source. All channels have ended the round and none has begun the next, so that nothing else writes guest memory. The
 * promise rejects with `GODWIT_LINK_LOST` once `isOver`; a further call then goes on where this one ended.
 */
export async function clearUnnamed(
  windows: MemoryWindows,
  { touched, received }: PageBoard,
  clock: Clock,
  isOver: () => boolean,
): Promise<void> {
  let lastYield = clock.now();
  let runs = 0;
  for (const [blockIndex, block] of windows.memory.blocks.entries()) {
    const mayHaveContents = touched.at(blockIndex);
    const named = received.at(blockIndex);
    for (let first = mayHaveContents.nextDirty(0); first !== -1; ) {
      const end = mayHaveContents.nextClean(first);
      for (let page = named.nextClean(first); page < end; ) {
        const next = named.nextDirty(page);
        const stop = next === -1 ? end : Math.min(next, end);
        const run = { firstPage: page, pageCount: stop - page };
        await zeroRun(windows, block as RamBlock, blockIndex, run, clock, isOver);
        mayHaveContents.clearRange(page, stop - page);
        page = named.nextClean(stop);
        if (++runs % RUNS_PER_CLOCK_READ !== 0 || clock.now() - lastYield < YIELD_AFTER_MS) continue;
        await clock.yield();
        lastYield = clock.now();
      }
      first = mayHaveContents.nextDirty(end);
    }
  }
}
