import { GodwitError } from '@godwit/core';
import type { DmaMapping } from '../dma-space.js';
import type { DirtyTrackingSupport } from './iommu-info.js';

/** A part of something that is mapped piece by piece. Bytes. */
export interface Piece {
  readonly offset: number;
  readonly byteLength: number;
}

/** DIRTY_BITMAP_PAGES_MAX in drivers/vfio/vfio_iommu_type1.c: a larger mapping makes the start of tracking fail. */
const MOST_PAGES = 2 ** 31 - 1;

/**
 * Most bytes of one mapping, so that its dirty bitmap can be had: the kernel refuses a bitmap larger than
 * `maximumBitmapBytes`, and also a part of a mapping, so a mapping that is too large cannot be asked for in steps.
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

/** Why the log of these mappings cannot be read: one is larger than the kernel can give a bitmap for. `undefined` when all can be. */
export function bitmapLimitBlocker(mappings: readonly DmaMapping[], support: DirtyTrackingSupport): string | undefined {
  const most = largestMapping(support);
  const large = mappings.find(({ byteLength }) => byteLength > most);
  if (large === undefined) return undefined;
  return (
    `the mapping of ${large.byteLength} bytes at IOVA 0x${large.iova.toString(16)} is larger than the kernel's dirty bitmaps can be ` +
    `(${support.maximumBitmapBytes} bytes, for ${most}): map the memory in smaller pieces (mapMemory does)`
  );
}
