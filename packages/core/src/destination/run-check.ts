import { GodwitError } from '../errors.js';
import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import { type GuestMemory, pagesOf, type RamBlock } from '../memory/guest-memory.js';
import { addNamedBits } from '../memory/named-pages.js';
import type { MissingFrame, OwedFrame, ReceivedPagesFrame } from '../protocol/frame.js';

/**
 * Checks runs that a peer sent (flat [first page, page count, ...], ascending, disjoint) against a block of our own memory, and
 * returns their number of pages. Throws `GODWIT_OUT_OF_RANGE` or `GODWIT_PROTOCOL`; nothing may be written before this check.
 */
export function checkRuns(memory: GuestMemory, blockIndex: number, runs: readonly number[], frame: string): number {
  const block = checkBlock(memory, blockIndex, frame);
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
    // `isSafeInteger` also refuses NaN, fractions and values of other types.
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

/**
 * Returns the block that a peer has named. Throws `GODWIT_OUT_OF_RANGE` when there is none, and `GODWIT_PROTOCOL` when both sides share
 * it.
 */
export function checkBlock(memory: GuestMemory, blockIndex: number, frame: string): RamBlock {
  const block = memory.blocks[blockIndex];
  if (block === undefined) {
    throw new GodwitError(
      'GODWIT_OUT_OF_RANGE',
      `a "${frame}" frame names RAM block ${blockIndex}; there are ${memory.blocks.length}`,
    );
  }
  if (block.shared) {
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      `a "${frame}" frame names pages of RAM block "${block.id}", which both sides share: they are never sent`,
    );
  }
  return block;
}

/** Sets the bits of the pages that a frame of the peer names, as runs or as a bitmap. Throws as `checkRuns`, and sets nothing then. */
export function addNamedPages(
  memory: GuestMemory,
  frame: ReceivedPagesFrame | OwedFrame | MissingFrame,
  into: DirtyBitmaps,
): void {
  const { block, runs, words, type } = frame;
  checkBlock(memory, block, type);
  const bitmap = into.at(block);
  if (words !== undefined) {
    addNamedBits(frame, bitmap, type);
    return;
  }
  checkRuns(memory, block, runs, type);
  for (let i = 0; i < runs.length; i += 2) bitmap.setRange(runs[i] as number, runs[i + 1] as number);
}
