import { BoardWord, type SharedBoard } from '../vcpu/shared-board.js';

/** How long a thread waits at a time for room in a full ring before it asks `gaveUp` again. Milliseconds. */
const ROOM_WAIT_MS = 20;

/**
 * A ring that passes console text from the vCPU threads to the main thread. There is one for all threads, so that the text is in the
 * order in which the guest printed it. The threads share a lock, which the main thread never takes.
 */
export class ConsoleRing {
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #bytes: Uint8Array<SharedArrayBuffer>;
  readonly #mask: number;

  constructor(board: SharedBoard) {
    this.#words = board.words;
    this.#bytes = board.console;
    this.#mask = board.console.byteLength - 1;
  }

  /**
   * Appends text; for vCPU threads. Waits while the ring is full: a guest that prints faster than the main thread reads is slowed down,
   * and no text is lost.
   *
   * @param announce called to tell the main thread that there is text, once until it calls `take`
   * @param gaveUp called while waiting; true drops the rest of the text
   */
  append(text: Uint8Array, announce: () => void, gaveUp: () => boolean): void {
    const words = this.#words;
    while (Atomics.compareExchange(words, BoardWord.consoleLock, 0, 1) !== 0) {
      if (gaveUp()) return;
      Atomics.wait(words, BoardWord.consoleLock, 1, ROOM_WAIT_MS);
    }
    let written = Atomics.load(words, BoardWord.consoleWritten);
    for (let i = 0; i < text.byteLength; i++) {
      let taken = Atomics.load(words, BoardWord.consoleTaken);
      while (((written - taken) | 0) > this.#mask && !gaveUp()) {
        this.#announce(announce);
        Atomics.wait(words, BoardWord.consoleTaken, taken, ROOM_WAIT_MS);
        taken = Atomics.load(words, BoardWord.consoleTaken);
      }
      if (((written - taken) | 0) > this.#mask) break;
      this.#bytes[written & this.#mask] = text[i] as number;
      written = (written + 1) | 0;
      Atomics.store(words, BoardWord.consoleWritten, written);
    }
    Atomics.store(words, BoardWord.consoleLock, 0);
    Atomics.notify(words, BoardWord.consoleLock, 1);
    this.#announce(announce);
  }

  /** Takes all text; for the main thread. Undefined when there is none. */
  take(): Uint8Array | undefined {
    // Cleared first, so that text which comes after the next line is announced again.
    Atomics.store(this.#words, BoardWord.consoleAnnounced, 0);
    const taken = Atomics.load(this.#words, BoardWord.consoleTaken);
    const length = (Atomics.load(this.#words, BoardWord.consoleWritten) - taken) | 0;
    if (length === 0) return undefined;
    const text = new Uint8Array(length);
    for (let i = 0; i < length; i++) text[i] = this.#bytes[(taken + i) & this.#mask] as number;
    Atomics.store(this.#words, BoardWord.consoleTaken, (taken + length) | 0);
    Atomics.notify(this.#words, BoardWord.consoleTaken);
    return text;
  }

  #announce(announce: () => void): void {
    if (Atomics.compareExchange(this.#words, BoardWord.consoleAnnounced, 0, 1) === 0) announce();
  }
}
