import {
  assertMayChange,
  DirtyBitmaps,
  GodwitError,
  type GuestMemory,
  PageRunList,
  type SoftwareTracker,
} from '@godwit/core';
import { guestBytes } from '../machine/memory-map.js';

/** A range of guest-physical addresses. */
export interface GuestRange {
  readonly address: number;
  readonly byteLength: number;
}

/** Pages of one block of RAM. */
export interface PagesOfBlock {
  readonly block: number;
  readonly firstPage: number;
  readonly pageCount: number;
}

/**
 * Guest memory for a device on the main thread, by guest-physical address. Every write is marked for the dirty tracker, since neither KVM's
 * dirty log nor its dirty rings see the writes of the VMM. No harvest comes between a write and its mark: all three run on the main thread.
 *
 * A device checks a range by `contains`, and awaits `present`, before it uses any of it.
 */
export class DeviceMemory {
  readonly #memory: GuestMemory;
  readonly #tracker: Pick<SoftwareTracker, 'mark'> | undefined;

  /** @param tracker in which every write is marked; undefined when another tracker sees the writes of this process */
  constructor(memory: GuestMemory, tracker: Pick<SoftwareTracker, 'mark'> | undefined) {
    this.#memory = memory;
    this.#tracker = tracker;
  }

  /** Whether the range is in one block of RAM. */
  contains(range: GuestRange): boolean {
    return this.#blockOf(range) >= 0;
  }

  /**
   * Resolves when all pages of the range are present: pages are missing while a guest runs before its memory is whole.
   *
   * @throws GodwitError GODWIT_PAGES_MISSING when they will never come
   */
  async present(range: GuestRange): Promise<void> {
    const block = this.#blockOf(range);
    const start = this.#memory.blocks[block]?.guestPhysicalAddress ?? 0;
    await this.#memory.present?.(block, range.address - start, range.byteLength);
  }

  /** Copies bytes of the guest. @throws RangeError when they are not in RAM */
  read({ address, byteLength }: GuestRange): Uint8Array {
    const bytes = new Uint8Array(byteLength);
    let at = 0;
    for (const piece of this.#pieces({ address, byteLength })) {
      bytes.set(piece, at);
      at += piece.byteLength;
    }
    return bytes;
  }

  /** Writes bytes, and marks their pages. @throws RangeError when they are not in RAM */
  write(address: number, bytes: Uint8Array): void {
    const range = { address, byteLength: bytes.byteLength };
    let at = 0;
    for (const piece of this.#pieces(range)) {
      piece.set(bytes.subarray(at, at + piece.byteLength));
      at += piece.byteLength;
    }
    this.#mark(range);
  }

  /** The number at an address that is a multiple of its size. */
  u16(address: number): number {
    return this.#view(address, 2).getUint16(0, true);
  }

  setU16(address: number, value: number): void {
    this.#view(address, 2).setUint16(0, value, true);
    this.#mark({ address, byteLength: 2 });
  }

  /** A read-only view of bytes that do not cross a gibibyte. */
  view(address: number, byteLength: number): DataView {
    return this.#view(address, byteLength);
  }

  /** Makes bitmaps of all pages, clean. */
  bitmaps(): DirtyBitmaps {
    return new DirtyBitmaps(this.#memory);
  }

  /** The pages that are wholly within a range; undefined when there is none, or the range is not in one block of RAM. */
  wholePages(range: GuestRange): PagesOfBlock | undefined {
    const block = this.#blockOf(range);
    const start = this.#memory.blocks[block]?.guestPhysicalAddress;
    if (start === undefined) return undefined;
    const { pageSize } = this.#memory;
    const firstPage = Math.ceil((range.address - start) / pageSize);
    const pageCount = Math.floor((range.address - start + range.byteLength) / pageSize) - firstPage;
    return pageCount > 0 ? { block, firstPage, pageCount } : undefined;
  }

  /**
   * Gives pages back to the host: they are holes then. Pages that somebody has pinned stay.
   *
   * @returns false while a migration or a snapshot uses the memory, which may have what these pages had before: nothing was given back
   */
  giveBack(pages: DirtyBitmaps): boolean {
    if (isInUse(this.#memory)) return false;
    const { pageSize } = this.#memory;
    this.#memory.blocks.forEach((block, index) => {
      for (const run of pages.at(index).runs(new PageRunList())) {
        if (block.discard?.(run) === true)
          this.#tracker?.mark(index, run.firstPage * pageSize, run.pageCount * pageSize);
      }
    });
    return true;
  }

  #mark(range: GuestRange): void {
    const block = this.#blockOf(range);
    const start = this.#memory.blocks[block]?.guestPhysicalAddress ?? 0;
    this.#tracker?.mark(block, range.address - start, range.byteLength);
  }

  #blockOf({ address, byteLength }: GuestRange): number {
    return this.#memory.blocks.findIndex(
      (block) =>
        address >= block.guestPhysicalAddress && address + byteLength <= block.guestPhysicalAddress + block.byteLength,
    );
  }

  #view(address: number, byteLength: number): DataView {
    const bytes = guestBytes(this.#memory, address, byteLength);
    if (bytes === undefined) throw outside({ address, byteLength });
    return new DataView(bytes.buffer, bytes.byteOffset, byteLength);
  }

  /** Views of the guest's bytes in a range, one for each window of RAM. */
  *#pieces({ address, byteLength }: GuestRange): Iterable<Uint8Array> {
    for (let at = address; at < address + byteLength; ) {
      const end = Math.min(address + byteLength, (Math.floor(at / PIECE_BYTES) + 1) * PIECE_BYTES);
      const bytes = guestBytes(this.#memory, at, end - at);
      if (bytes === undefined) throw outside({ address, byteLength });
      yield bytes;
      at = end;
    }
  }
}

function isInUse(memory: GuestMemory): boolean {
  try {
    assertMayChange(memory, 'give pages back');
    return false;
  } catch (error) {
    if (GodwitError.is(error) && error.code === 'GODWIT_CLAIMED') return true;
    throw error;
  }
}

/** Views end at multiples of this. Blocks begin at multiples of a gibibyte, so that no view crosses a window. */
const PIECE_BYTES = 2 ** 30;

function outside({ address, byteLength }: GuestRange): RangeError {
  return new RangeError(`${byteLength} bytes at guest-physical address 0x${address.toString(16)} are not in RAM`);
}
