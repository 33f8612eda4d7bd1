/** How long a thread waits for the lock at a time before it tries again. Milliseconds. */
const WAIT_MS = 5;

/** A lock in a word of shared memory, which is 0 while no thread holds it. */
export class SharedLock {
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #at: number;

  /** @param at the index of the lock's word */
  constructor(words: Int32Array<SharedArrayBuffer>, at: number) {
    this.#words = words;
    this.#at = at;
  }

  /** Calls `work` while no other thread holds the lock. `work` has to be short, and must not wait. */
  exclusively<T>(work: () => T): T {
    const words = this.#words;
    const at = this.#at;
    while (Atomics.compareExchange(words, at, 0, 1) !== 0) Atomics.wait(words, at, 1, WAIT_MS);
    try {
      return work();
    } finally {
      Atomics.store(words, at, 0);
      Atomics.notify(words, at, 1);
    }
  }
}
