import { GodwitError } from '../errors.js';
import { DirtyBitmap } from './dirty-bitmap.js';
import { type GuestMemory, pagesOf } from './guest-memory.js';

/**
 * One dirty bitmap for each RAM block of a guest, in the order of `GuestMemory.blocks`.
 *
 * @example
 * const dirty = new DirtyBitmaps(vm.memory);
 * await tracker.harvest(dirty);
 * console.log(dirty.at(0).has(7)); // whether page 7 of the first block was written
 */
export class DirtyBitmaps {
  readonly blocks: readonly DirtyBitmap[];

  /**
   * Makes bitmaps, all clean, for the blocks of this memory or of other bitmaps. With `shared` (`sharedStorage`), one buffer for
   * each block, they are bitmaps that other threads use too; `summaries` has the buffers of their summaries.
   */
  constructor(
    memory: GuestMemory | DirtyBitmaps,
    shared?: readonly ArrayBufferLike[],
    summaries?: readonly ArrayBufferLike[],
  ) {
    const counts =
      memory instanceof DirtyBitmaps
        ? memory.blocks.map(({ pageCount }) => pageCount)
        : memory.blocks.map((block) => pagesOf(memory, block));
    this.blocks = counts.map((pageCount, index) => new DirtyBitmap(pageCount, shared?.[index], summaries?.[index]));
  }

  /** Allocates storage, all clean, for bitmaps of this memory that several threads use. */
  static sharedStorage(memory: GuestMemory): SharedArrayBuffer[] {
    return memory.blocks.map((block) => new SharedArrayBuffer(DirtyBitmap.storageBytes(pagesOf(memory, block))));
  }

  /** The bitmap of the block at `index`; throws `GODWIT_INVALID_ARGUMENT` when there is none. */
  at(index: number): DirtyBitmap {
    const bitmap = this.blocks[index];
    if (bitmap === undefined) {
      throw new GodwitError('GODWIT_INVALID_ARGUMENT', `no RAM block ${index}; there are ${this.blocks.length}`);
    }
    return bitmap;
  }

  /** Sets every bit that is set in `other`, which is of the same memory. */
  or(other: DirtyBitmaps): void {
    for (let i = 0; i < this.blocks.length; i++) this.at(i).or(other.at(i));
  }

  /** Clears every bit that is not set in `other`. */
  and(other: DirtyBitmaps): void {
    for (let i = 0; i < this.blocks.length; i++) this.at(i).and(other.at(i));
  }

  /** Clears every bit that is set in `other`. */
  andNot(other: DirtyBitmaps): void {
    for (let i = 0; i < this.blocks.length; i++) this.at(i).andNot(other.at(i));
  }

  /** Whether every bit of `other` is set here. */
  contains(other: DirtyBitmaps): boolean {
    return this.blocks.every((bitmap, i) => bitmap.contains(other.at(i)));
  }

  /** Makes every page of every block dirty. */
  setAll(): void {
    for (const bitmap of this.blocks) bitmap.setAll();
  }

  /** Makes every page of every block clean. */
  clearAll(): void {
    for (const bitmap of this.blocks) bitmap.clearAll();
  }

  /** Number of dirty pages in all blocks. */
  count(): number {
    let total = 0;
    for (const bitmap of this.blocks) total += bitmap.count();
    return total;
  }

  /** Whether no page of any block is dirty. */
  isEmpty(): boolean {
    return this.blocks.every((bitmap) => bitmap.isEmpty());
  }
}
