/** The parts of a `CopyBuffer`, which can be passed to another thread as they are. */
export interface CopyBufferParts {
  /** The address and the number of the slots, each of the size of a page. */
  readonly address: number;
  readonly slots: number;
  readonly pageSize: number;
  /** The page in each slot: the index of its block (32 bits), and its number (64-bit floats). */
  readonly blocks: SharedArrayBuffer;
  readonly pages: SharedArrayBuffer;
  /** `Counter`s, of 32 bits. */
  readonly counters: SharedArrayBuffer;
}

/** The counters wrap around, and are compared by their difference. */
const Counter = { put: 0, taken: 1, high: 2, count: 3 } as const;

/**
 * A ring of copies of pages between the thread that serves faults, which puts them into it, and the thread that saves them. A slot is free
 * again when its page was written to the target, so that faults wait for the disk only when the buffer is full.
 */
export class CopyBuffer {
  /** The run of pages that `next` has found: in consecutive slots from `slot` on. */
  block = 0;
  page = 0;
  slot = 0;
  readonly #parts: CopyBufferParts;
  readonly #blocks: Int32Array;
  readonly #pages: Float64Array;
  readonly #counters: Int32Array;

  constructor(parts: CopyBufferParts) {
    this.#parts = parts;
    this.#blocks = new Int32Array(parts.blocks);
    this.#pages = new Float64Array(parts.pages);
    this.#counters = new Int32Array(parts.counters);
  }

  /** The storage of a buffer whose slots are at `address`. */
  static parts(address: number, slots: number, pageSize: number): CopyBufferParts {
    return {
      ...{ address, slots, pageSize },
      blocks: new SharedArrayBuffer(slots * Int32Array.BYTES_PER_ELEMENT),
      pages: new SharedArrayBuffer(slots * Float64Array.BYTES_PER_ELEMENT),
      counters: new SharedArrayBuffer(Counter.count * Int32Array.BYTES_PER_ELEMENT),
    };
  }

  /** Slots that hold a copy. */
  get used(): number {
    const counters = this.#counters;
    return (Atomics.load(counters, Counter.put) - Atomics.load(counters, Counter.taken)) | 0;
  }

  /** The most that `used` ever was. */
  get high(): number {
    return Atomics.load(this.#counters, Counter.high);
  }

  /** The slot of the next copy; -1 when there is no room. Only for the thread that puts copies. */
  get room(): number {
    const { address, slots, pageSize } = this.#parts;
    if (this.used >= slots) return -1;
    return address + this.#slot(Atomics.load(this.#counters, Counter.put)) * pageSize;
  }

  /** Notes that the copy in the slot `room` is complete and is that of this page. */
  put(block: number, page: number): void {
    const counters = this.#counters;
    const put = Atomics.load(counters, Counter.put);
    const slot = this.#slot(put);
    this.#blocks[slot] = block;
    this.#pages[slot] = page;
    Atomics.store(counters, Counter.put, (put + 1) | 0);
    const { used } = this;
    if (used > Atomics.load(counters, Counter.high)) Atomics.store(counters, Counter.high, used);
  }

  /** Wakes the thread that saves. */
  announce(): void {
    Atomics.notify(this.#counters, Counter.put);
  }

  /** Waits until slots are taken out, at most `ms` milliseconds. Only for the thread that puts copies. */
  waitForRoom(ms: number): void {
    const taken = Atomics.load(this.#counters, Counter.taken);
    if (this.used >= this.#parts.slots) Atomics.wait(this.#counters, Counter.taken, taken, ms);
  }

  /** Waits until there is a copy, at most `ms` milliseconds. Only for the thread that saves copies. */
  waitForCopies(ms: number): void {
    const put = Atomics.load(this.#counters, Counter.put);
    if (this.used === 0) Atomics.wait(this.#counters, Counter.put, put, ms);
  }

  /**
   * Finds the first run of at most `most` copies and sets `block`, `page` and `slot` to its beginning; returns its length, 0 when there is
   * no copy.
   */
  next(most: number): number {
    const { used } = this;
    if (used === 0) return 0;
    const slot = this.#slot(Atomics.load(this.#counters, Counter.taken));
    const block = this.#blocks[slot] as number;
    const page = this.#pages[slot] as number;
    const room = Math.min(used, most, this.#parts.slots - slot);
    let count = 1;
    while (count < room && this.#blocks[slot + count] === block && this.#pages[slot + count] === page + count) count++;
    this.block = block;
    this.page = page;
    this.slot = slot;
    return count;
  }

  /** Takes out the first `count` copies, which are saved. */
  take(count: number): void {
    const counters = this.#counters;
    Atomics.store(counters, Counter.taken, (Atomics.load(counters, Counter.taken) + count) | 0);
    Atomics.notify(counters, Counter.taken);
  }

  #slot(counter: number): number {
    return (counter >>> 0) % this.#parts.slots;
  }
}
