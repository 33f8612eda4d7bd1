import { GodwitError } from '../errors.js';
import { type GuestMemory, pagesOf } from '../memory/guest-memory.js';

/**
 * Checks runs that a peer sent (flat [first page, page count, ...], ascending, disjoint) against a block of our own memory, and
 * returns their number of pages. Throws `GODWIT_OUT_OF_RANGE` or `GODWIT_PROTOCOL`; nothing may be written before this check.
 */
export function checkRuns(memory: GuestMemory, blockIndex: number, runs: readonly number[], frame: string): number {
  const block = memory.blocks[blockIndex];
  if (block === undefined) {
    throw new GodwitError(
      'GODWIT_OUT_OF_RANGE',
      `a "${frame}" frame names RAM block ${blockIndex}; there are ${memory.blocks.length}`,
    );
  }
  if (runs.length === 0 || runs.length % 2 !== 0) {
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      `a "${frame}" frame has ${runs.length} numbers for its runs; they come in pairs`,
    );
  }
  const blockPages = pagesOf(memory, block);
  let pages = 0;
  let end = 0;
  for (let i = 0; i < runs.length; i += 2) {
    const first = runs[i] as number;
    const count = runs[i + 1] as number;
    // `isSafeInteger` also refuses NaN, fractions and values that are no numbers.
    if (!Number.isSafeInteger(first) || !Number.isSafeInteger(count) || count < 1 || first < end) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `a "${frame}" frame has runs that are empty, overlap, do not ascend or are no whole numbers (page ${first}, ${count} pages)`,
      );
    }
    end = first + count;
    if (end > blockPages) {
      throw new GodwitError(
        'GODWIT_OUT_OF_RANGE',
        `a "${frame}" frame names pages ${first} to ${end - 1} of RAM block "${block.id}", which has ${blockPages}`,
      );
    }
    pages += count;
  }
  return pages;
}
