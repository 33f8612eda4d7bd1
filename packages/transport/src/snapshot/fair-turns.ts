/** Milliseconds of continuous work after which timers and I/O get a turn. */
const LONGEST_TURN_MS = 2;

/**
 * Turns for pieces of work that take a fraction of a millisecond each, one after the other. Reads of eight channels end
 * together; without turns, checking all their pages would block the event loop.
 */
export class FairTurns {
  #last: Promise<void> = Promise.resolve();
  #turnStarted = 0;

  /** Resolves when the next piece of work may be done, which must not wait for anything. */
  next(): Promise<void> {
    this.#last = this.#last.then(async () => {
      if (performance.now() - this.#turnStarted < LONGEST_TURN_MS) return;
      await new Promise<void>((resolve) => setImmediate(resolve));
      this.#turnStarted = performance.now();
    });
    return this.#last;
  }
}
