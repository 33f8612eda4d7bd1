import { GodwitError } from '@godwit/core';
import type { DmaMapping } from '../dma-space.js';
import type { DirtyTrackingSupport } from './iommu-info.js';

/** A part of memory that is mapped piece by piece. Bytes. */
export interface Piece {
  readonly offset: number;
  readonly byteLength: number;
}

/** DIRTY_BITMAP_PAGES_MAX in drivers/vfio/vfio_iommu_type1.c: a larger mapping makes the start of tracking fail. */
const MOST_PAGES = 2 ** 31 - 1;

/**
 * The most bytes of one mapping whose dirty bitmap can be read: the kernel refuses a bitmap larger than `maximumBitmapBytes`, and
 * also a read of a part of a mapping, so that a larger mapping cannot be read in steps.
 */
export function largestMapping({ pageSize, maximumBitmapBytes }: DirtyTrackingSupport): number {
  // Bitmaps are whole 64-bit words; so are the pieces' pages.
  const pages = Math.floor(Math.min(maximumBitmapBytes * 8, MOST_PAGES) / 64) * 64;
  return pages * pageSize;
}

/** Cuts `byteLength` bytes into pieces of at most `largest` bytes, all but the last of that size. */
export function mappingPieces(byteLength: number, largest: number): readonly Piece[] {
  if (!(Number.isSafeInteger(byteLength) && byteLength >= 0 && Number.isSafeInteger(largest) && largest > 0)) {
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `${byteLength} bytes cannot be mapped in pieces of ${largest}`);
  }
  const pieces: Piece[] = [];
  for (let offset = 0; offset < byteLength; offset += largest) {
    pieces.push({ offset, byteLength: Math.min(largest, byteLength - offset) });
  }
  return pieces;
}

/**
 * The reason why the log of these mappings cannot be read, when one is too large for the kernel's bitmaps; `undefined` when all can
 * be read.
 */
export function bitmapLimitBlocker(mappings: readonly DmaMapping[], support: DirtyTrackingSupport): string | undefined {
  const most = largestMapping(support);
  const large = mappings.find(({ byteLength }) => byteLength > most);
  if (large === undefined) return undefined;
  return (
    `the mapping of ${large.byteLength} bytes at IOVA 0x${large.iova.toString(16)} is larger than the kernel's dirty bitmaps can be ` +
    `(${support.maximumBitmapBytes} bytes, for ${most}): map the memory in smaller pieces (mapMemory does)`
  );
}
