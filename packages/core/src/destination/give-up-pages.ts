import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import type { DirtyBitmap } from '../memory/dirty-bitmap.js';
import type { RamBlock } from '../memory/guest-memory.js';

/** Milliseconds of continuous work after which the event loop gets a turn. */
const YIELD_AFTER_MS = 2;

/** Runs after which the clock is read. */
const RUNS_PER_CLOCK_READ = 32;

/**
 * Gives the memory behind these pages back to the host: these pages are to be missing when the guest runs. Rejects with
 * `GODWIT_BLOCKED` for pages that cannot be given up, and with `GODWIT_LINK_LOST` once `isOver`.
 */
export async function giveUpPages(
  block: RamBlock,
  pages: DirtyBitmap,
  clock: Clock,
  isOver: () => boolean,
): Promise<void> {
  let lastYield = clock.now();
  let runs = 0;
  for (let first = pages.nextDirty(0); first !== -1; ) {
    if (isOver()) throw new GodwitError('GODWIT_LINK_LOST', 'the connection is over');
    const end = pages.nextClean(first);
    if (block.discard?.({ firstPage: first, pageCount: end - first }) === false || block.discard === undefined) {
      throw new GodwitError(
        'GODWIT_BLOCKED',
        `pages ${first} to ${end - 1} of RAM block "${block.id}" cannot be given up, so that they cannot come while the guest runs`,
      );
    }
    first = pages.nextDirty(end);
    if (++runs % RUNS_PER_CLOCK_READ !== 0 || clock.now() - lastYield < YIELD_AFTER_MS) continue;
    await clock.yield();
    lastYield = clock.now();
  }
}
