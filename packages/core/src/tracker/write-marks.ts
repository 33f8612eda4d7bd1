import { GodwitError } from '../errors.js';
import { DirtyBitmap } from '../memory/dirty-bitmap.js';
import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import { type GuestMemory, pagesOf } from '../memory/guest-memory.js';

/** The memory of marks, which can be passed to `postMessage` as it is. */
export interface WriteMarksStorage {
  readonly pageSize: number;
  readonly pageCounts: readonly number[];
  /** One 32-bit integer, which says whether marks count. */
  readonly wanted: SharedArrayBuffer;
  /** A bitmap for each block. */
  readonly blocks: readonly SharedArrayBuffer[];
}

/**
 * Marks of writes, made by the code that writes, on any thread: `tracker.marks.storage` goes to a worker, which marks
 * through `new WriteMarks(storage)`.
 *
 * ```ts
 * // in the thread that has the tracker
 * worker.postMessage({ memory: memory.attachment(), marks: tracker.marks.storage });
 * // in the thread of the device model, once the disk's bytes are in guest memory
 * marks.mark(0, offset, byteLength);
 * ```
 *
 * Mark after the write: a mark that is harvested before the write has landed says nothing about what comes after it.
 */
export class WriteMarks {
  readonly storage: WriteMarksStorage;
  readonly #wanted: Int32Array;
  readonly #bitmaps: readonly DirtyBitmap[];

  /** @param of the memory, or the storage of marks that exist already */
  constructor(of: GuestMemory | Pick<WriteMarksStorage, 'pageSize' | 'pageCounts'> | WriteMarksStorage) {
    const pageCounts = 'pageCounts' in of ? of.pageCounts : of.blocks.map((block) => pagesOf(of, block));
    this.storage =
      'wanted' in of
        ? of
        : {
            pageSize: of.pageSize,
            pageCounts,
            wanted: new SharedArrayBuffer(4),
            blocks: pageCounts.map((count) => new SharedArrayBuffer(DirtyBitmap.storageBytes(count))),
          };
    this.#wanted = new Int32Array(this.storage.wanted);
    this.#bitmaps = pageCounts.map((count, i) => new DirtyBitmap(count, this.storage.blocks[i]));
  }

  /**
   * Marks `length` bytes at `offset` of a block as written. Outside a migration this costs one comparison.
   *
   * @throws GodwitError GODWIT_INVALID_ARGUMENT when there is no such block, or the bytes are not in it
   */
  mark(blockIndex: number, offset: number, length: number): void {
    if (length <= 0 || Atomics.load(this.#wanted, 0) === 0) return;
    const bitmap = this.#bitmaps[blockIndex];
    if (bitmap === undefined) {
      throw new GodwitError('GODWIT_INVALID_ARGUMENT', `no RAM block ${blockIndex}; there are ${this.#bitmaps.length}`);
    }
    const first = Math.floor(offset / this.storage.pageSize);
    const last = Math.floor((offset + length - 1) / this.storage.pageSize);
    bitmap.setRange(first, last - first + 1);
  }

  /** Begins to count marks, and forgets earlier ones. */
  begin(): void {
    for (const bitmap of this.#bitmaps) bitmap.clearAll();
    Atomics.store(this.#wanted, 0, 1);
  }

  /** Ends the counting: later marks are lost. */
  end(): void {
    Atomics.store(this.#wanted, 0, 0);
  }

  /** ORs all marks into `into` and forgets them; a mark that is made meanwhile is in this harvest or the next. */
  harvest(into: DirtyBitmaps): void {
    for (const [i, { words }] of this.#bitmaps.entries()) {
      const target = into.at(i);
      for (let word = 0; word < words.length; word++) {
        if (words[word] !== 0) target.orWord(word, Atomics.exchange(words, word, 0));
      }
    }
  }
}
