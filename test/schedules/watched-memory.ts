import type { GuestMemory, RamBlock } from '@godwit/core';
import type { BufferMemory } from '@godwit/core/testing';

/** Fills unmapped memory, so that a later write shows. */
const POISON = 0xdb;

/** A machine's memory. After the machine has unmapped it, making a view of it or writing to it is a defect. */
export class MachineMemory {
  readonly buffers: BufferMemory;
  readonly #onUse: () => void;
  #unmapped = false;

  /** `onUse` is called when a view is made of unmapped memory. */
  constructor(buffers: BufferMemory, onUse: () => void) {
    this.buffers = buffers;
    this.#onUse = onUse;
  }

  /** Makes another memory object over the same bytes. */
  mapping(): GuestMemory {
    const { pageSize, blocks } = this.buffers;
    return { pageSize, blocks: blocks.map((block) => this.#watched(block)) };
  }

  unmap(): void {
    if (this.#unmapped) return;
    this.#unmapped = true;
    for (const { bytes } of this.buffers.blocks) bytes.fill(POISON);
  }

  /** Returns a page that was written after the memory was unmapped, if any. */
  writtenUnmapped(): { readonly block: number; readonly page: number } | undefined {
    if (!this.#unmapped) return undefined;
    for (const [block, { bytes }] of this.buffers.blocks.entries()) {
      const at = bytes.findIndex((byte) => byte !== POISON);
      if (at !== -1) return { block, page: Math.floor(at / this.buffers.pageSize) };
    }
    return undefined;
  }

  #watched(block: BufferMemory['blocks'][number]): RamBlock {
    const check = () => {
      if (!this.#unmapped) return;
      this.#onUse();
      throw new Error(`block ${block.id} is unmapped`);
    };
    return {
      id: block.id,
      guestPhysicalAddress: block.guestPhysicalAddress,
      byteLength: block.byteLength,
      view: (offset, length) => {
        check();
        return block.view(offset, length);
      },
      populated: (range) => {
        check();
        return block.populated?.(range) ?? [];
      },
      discard: (range) => {
        check();
        return block.discard?.(range) ?? true;
      },
    };
  }
}

/** Copies all RAM, block by block. */
export function copyRam(buffers: BufferMemory): Uint8Array[] {
  return buffers.blocks.map(({ bytes }) => bytes.slice());
}

/** Returns the first byte that differs from `expected`, if any. */
export function firstDifference(
  buffers: BufferMemory,
  wanted: readonly Uint8Array[],
): { readonly block: number; readonly page: number } | undefined {
  for (const [block, { bytes }] of buffers.blocks.entries()) {
    const other = wanted[block] as Uint8Array;
    if (Buffer.compare(bytes, other) === 0) continue;
    return { block, page: Math.floor(bytes.findIndex((byte, at) => byte !== other[at]) / buffers.pageSize) };
  }
  return undefined;
}
