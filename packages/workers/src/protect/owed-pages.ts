import { DirtyBitmap } from '@godwit/core/pages';
import type { SharedBitmaps } from './protect-messages.js';

/** Makes storage, all clear, for bitmaps of blocks with these numbers of pages. */
export function sharedBitmaps(pageCounts: readonly number[]): SharedBitmaps {
  return {
    words: pageCounts.map((count) => new SharedArrayBuffer(DirtyBitmap.storageBytes(count))),
    summaries: pageCounts.map((count) => new SharedArrayBuffer(DirtyBitmap.summaryBytes(count))),
  };
}

/** One bitmap for each block, in storage that all threads share. */
export function bitmapsIn({ words, summaries }: SharedBitmaps, pageCounts: readonly number[]): DirtyBitmap[] {
  return pageCounts.map((count, i) => new DirtyBitmap(count, words[i] as SharedArrayBuffer, summaries[i]));
}

/**
 * The pages whose contents at the moment of the snapshot are still only in guest memory. Two threads take them out: the thread that reads a
 * page and then clears its bit first has the contents of that moment, since no thread lets the page be written before its bit is clear. A
 * thread that finds the bit clear drops what it has read.
 */
export class OwedPages {
  readonly bitmaps: readonly DirtyBitmap[];
  readonly #words: readonly Int32Array[];

  constructor(shared: SharedBitmaps, pageCounts: readonly number[]) {
    this.bitmaps = bitmapsIn(shared, pageCounts);
    this.#words = shared.words.map((buffer) => new Int32Array(buffer));
  }

  isOwed(block: number, page: number): boolean {
    return (Atomics.load(this.#words[block] as Int32Array, page >>> 5) & (1 << (page & 31))) !== 0;
  }

  /** Takes out one page, after it was read; returns false when the other thread has it. */
  take(block: number, page: number): boolean {
    const bit = 1 << (page & 31);
    return (Atomics.and(this.#words[block] as Int32Array, page >>> 5, ~bit) & bit) !== 0;
  }

  /**
   * Takes out the pages of a run that is within one word of 32 pages, after they were read.
   *
   * @returns the bits that were taken by this call: bit n is page n of the word
   */
  takeWord(block: number, page: number, pageCount: number): number {
    const mask = (pageCount === 32 ? -1 : (1 << pageCount) - 1) << (page & 31);
    return Atomics.and(this.#words[block] as Int32Array, page >>> 5, ~mask) & mask;
  }
}
