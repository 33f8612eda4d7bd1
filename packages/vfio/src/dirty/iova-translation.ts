import { type DirtyBitmap, type DirtyBitmaps, GodwitError, type GuestMemory } from '@godwit/core';
import type { DmaMapping } from '../dma-space.js';
import { orBits, orPages } from './copy-bits.js';

/** A part of a mapping that is RAM of the guest. Bytes. */
export interface RamSegment {
  /** The offset from the start of the mapping. */
  readonly offset: number;
  readonly byteLength: number;
  readonly blockIndex: number;
  /** The offset from the start of the block. */
  readonly blockOffset: number;
}

/**
 * The RAM behind a mapping: its guest-physical range cut at the borders of RAM blocks. Parts that are no RAM (a
 * device's own memory, mapped for peer-to-peer DMA) are left out, since they are not migrated.
 */
export function ramSegments(mapping: DmaMapping, memory: GuestMemory): readonly RamSegment[] {
  const start = mapping.guestPhysicalAddress;
  const end = start + mapping.byteLength;
  return memory.blocks
    .map((block, blockIndex): RamSegment => {
      const from = Math.max(start, block.guestPhysicalAddress);
      const to = Math.min(end, block.guestPhysicalAddress + block.byteLength);
      return {
        offset: from - start,
        byteLength: to - from,
        blockIndex,
        blockOffset: from - block.guestPhysicalAddress,
      };
    })
    .filter(({ byteLength }) => byteLength > 0)
    .sort((a, b) => a.offset - b.offset);
}

/**
 * Translates the dirty bits of one mapping, in the IOMMU's page size, to those of RAM blocks, in the engine's page
 * size.
 */
export class MappingTranslation {
  readonly mapping: DmaMapping;
  readonly segments: readonly RamSegment[];
  /** The number of the engine's pages that this mapping covers, wholly or in part. */
  readonly pageCount: number;
  readonly #sourcePage: number;
  readonly #targetPage: number;

  /** @param sourcePage bytes of the page that a bit of the mapping's bitmap stands for */
  constructor(mapping: DmaMapping, memory: GuestMemory, sourcePage: number) {
    this.mapping = mapping;
    this.segments = ramSegments(mapping, memory);
    this.#sourcePage = sourcePage;
    this.#targetPage = memory.pageSize;
    let pages = 0;
    for (const { blockOffset, byteLength } of this.segments) {
      pages += Math.ceil((blockOffset + byteLength) / memory.pageSize) - Math.floor(blockOffset / memory.pageSize);
    }
    this.pageCount = pages;
  }

  /** ORs the bits of `source`, which begins at the mapping's first byte. */
  report(source: DirtyBitmap, into: DirtyBitmaps): void {
    const page = this.#sourcePage;
    if (source.pageCount * page < this.mapping.byteLength) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        `a bitmap of ${source.pageCount} pages is too short for a mapping of ${this.mapping.byteLength} bytes`,
      );
    }
    for (const { offset, byteLength, blockIndex, blockOffset } of this.segments) {
      const target = into.at(blockIndex);
      if (page === this.#targetPage && offset % page === 0 && blockOffset % page === 0) {
        orBits(source, offset / page, byteLength / page, target, blockOffset / page);
      } else {
        orPages(source, page, offset, byteLength, target, this.#targetPage, blockOffset);
      }
    }
  }

  /** Reports all pages of the mapping as dirty, when its writes are not known. */
  reportAll(into: DirtyBitmaps): void {
    for (const { byteLength, blockIndex, blockOffset } of this.segments) {
      const first = Math.floor(blockOffset / this.#targetPage);
      into.at(blockIndex).setRange(first, Math.ceil((blockOffset + byteLength) / this.#targetPage) - first);
    }
  }
}
