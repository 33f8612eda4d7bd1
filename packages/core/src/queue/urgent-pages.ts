/** Most pages that may wait at a time. */
const SLOTS = 1024;

enum Word {
  /** Number of the next page that is put in, and of the next one that is taken out. */
  head,
  tail,
  /** From here on: for each slot, the number that may use it next. */
  turns,
}

/** A page that is asked for before all others. */
export interface UrgentPage {
  readonly block: number;
  readonly page: number;
}

/**
 * Pages that are wanted at once, in the order in which they were asked for: a ring in shared memory that any thread puts pages into and
 * takes them out of, without a lock (Dmitry Vyukov's bounded queue, in which each slot says whose turn it is).
 *
 * Post-copy asks for the pages that the guest waits for.
 */
export class UrgentPages {
  /** Bytes of memory for a ring. */
  static readonly storageBytes =
    (Word.turns + SLOTS) * Int32Array.BYTES_PER_ELEMENT + SLOTS * 2 * Float64Array.BYTES_PER_ELEMENT;
  readonly #words: Int32Array;
  /** Block and page of each slot. */
  readonly #pages: Float64Array;

  /** `storage`: zeroed memory of `storageBytes` bytes, or that of the same ring on another thread. */
  constructor(storage: ArrayBufferLike) {
    this.#pages = new Float64Array(storage, 0, SLOTS * 2);
    this.#words = new Int32Array(storage, SLOTS * 2 * Float64Array.BYTES_PER_ELEMENT, Word.turns + SLOTS);
  }

  get isEmpty(): boolean {
    return Atomics.load(this.#words, Word.head) === Atomics.load(this.#words, Word.tail);
  }

  /** Asks for a page. Returns false when too many wait already: ask again later. */
  put(block: number, page: number): boolean {
    const words = this.#words;
    for (;;) {
      const head = Atomics.load(words, Word.head);
      const slot = (head >>> 0) % SLOTS;
      const turn = this.#turn(slot);
      if (turn === head) {
        if (Atomics.compareExchange(words, Word.head, head, (head + 1) | 0) !== head) continue;
        this.#pages[slot * 2] = block;
        this.#pages[slot * 2 + 1] = page;
        this.#setTurn(slot, (head + 1) | 0);
        return true;
      }
      if (((turn - head) | 0) < 0) return false;
    }
  }

  /** The page that has waited longest; `undefined` when none waits. */
  take(): UrgentPage | undefined {
    const words = this.#words;
    for (;;) {
      const tail = Atomics.load(words, Word.tail);
      const slot = (tail >>> 0) % SLOTS;
      const behind = (this.#turn(slot) - (tail + 1)) | 0;
      if (behind < 0) return undefined;
      if (behind > 0 || Atomics.compareExchange(words, Word.tail, tail, (tail + 1) | 0) !== tail) continue;
      const taken = { block: this.#pages[slot * 2] as number, page: this.#pages[slot * 2 + 1] as number };
      this.#setTurn(slot, (tail + SLOTS) | 0);
      return taken;
    }
  }

  /** Turns are kept less the number of their slot, so that a ring of zeros is an empty one. */
  #turn(slot: number): number {
    return (Atomics.load(this.#words, Word.turns + slot) + slot) | 0;
  }

  #setTurn(slot: number, turn: number): void {
    Atomics.store(this.#words, Word.turns + slot, (turn - slot) | 0);
  }
}
