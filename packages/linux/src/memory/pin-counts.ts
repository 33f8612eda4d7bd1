import { GodwitError } from '@godwit/core/errors';

/** Pins are counted for so many bytes at a time: 16 TiB take 32 MiB of counters, of which only those in use take memory. */
const CHUNK_BYTES = 2 ** 21;
/** Where the number of discards under way is; the chunks' counters follow. */
const DISCARDS = 0;
const COUNTERS = 1;
/** A hole is punched in milliseconds. One that takes longer belonged to a thread that was ended in the middle. */
const LONGEST_DISCARD_MS = 10_000;

/**
 * Which parts of a block are pinned, how many times, and how many threads are discarding: shared by all threads that see the
 * block. A pin and a discard each announce themselves before they look for the other, so that never both go on.
 */
export class PinCounts {
  readonly storage: SharedArrayBuffer;
  readonly #words: Int32Array<SharedArrayBuffer>;

  /** @param storage of the same block in another thread; default: none of it is pinned */
  constructor(byteLength: number, storage?: SharedArrayBuffer) {
    this.storage = storage ?? new SharedArrayBuffer((COUNTERS + Math.ceil(byteLength / CHUNK_BYTES)) * 4);
    this.#words = new Int32Array(this.storage);
  }

  /** Pins bytes from `offset` on, until the function that is returned is called. No discard of them is under way then. */
  pin(offset: number, byteLength: number): () => void {
    const [first, end] = chunks(offset, byteLength);
    for (let i = first; i < end; i++) Atomics.add(this.#words, i, 1);
    this.#awaitDiscards();
    let pinned = true;
    return () => {
      if (!pinned) return;
      pinned = false;
      for (let i = first; i < end; i++) Atomics.sub(this.#words, i, 1);
    };
  }

  /** Whether one of these bytes is pinned. */
  isPinned(offset: number, byteLength: number): boolean {
    const [first, end] = chunks(offset, byteLength);
    for (let i = first; i < end; i++) if (Atomics.load(this.#words, i) > 0) return true;
    return false;
  }

  /** Calls `discard` unless one of these bytes is pinned, and says whether it did. */
  unlessPinned(offset: number, byteLength: number, discard: () => void): boolean {
    Atomics.add(this.#words, DISCARDS, 1);
    try {
      if (this.isPinned(offset, byteLength)) return false;
      discard();
      return true;
    } finally {
      if (Atomics.sub(this.#words, DISCARDS, 1) === 1) Atomics.notify(this.#words, DISCARDS);
    }
  }

  #awaitDiscards(): void {
    for (;;) {
      const discards = Atomics.load(this.#words, DISCARDS);
      if (discards === 0) return;
      if (Atomics.wait(this.#words, DISCARDS, discards, LONGEST_DISCARD_MS) !== 'timed-out') continue;
      throw new GodwitError(
        'GODWIT_INTERNAL',
        'guest memory cannot be pinned: a thread began to discard pages of it and has not ended that for 10 s',
      );
    }
  }
}

/** Indexes of the counters of a range: the first, and the one behind the last. */
function chunks(offset: number, byteLength: number): readonly [number, number] {
  if (byteLength === 0) return [0, 0];
  const first = Math.floor(offset / CHUNK_BYTES);
  return [COUNTERS + first, COUNTERS + Math.floor((offset + byteLength - 1) / CHUNK_BYTES) + 1];
}
