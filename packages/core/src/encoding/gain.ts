/** Raw bytes of a new trial of an encoding that did not pay: more than a batch, since the first batch warms caches and threads. */
const TRIAL = 2 * 2 ** 20;

/** Weight of earlier measurements at the start of a trial. */
const MEMORY = 0.1;

/** An encoding pays when its time is below this part of the raw pages' time; the difference from 1 allows for measuring errors. */
const MARGIN = 0.95;

/** Raw bytes between a loss and the next trial; doubled after each further loss, up to the longest. */
const SHORTEST_REST = 16 * 2 ** 20;
const LONGEST_REST = 2 ** 28;

/**
 * Decides whether an encoding pays: compares its own time plus the time of its bytes on the link with the time of the raw bytes on the
 * link. Both are learned from the batches that were encoded; older ones weigh less.
 */
export class Gain {
  #raw = 0;
  #encoded = 0;
  #ms = 0;
  readonly #expectedMsPerByte: number;
  #resting = 0;
  #rest = SHORTEST_REST;
  #trial = 0;
  readonly #warmUp: number;

  /**
   * `expectedMsPerByte`: the encoding's time before it was tried; its size is then taken as a quarter of the raw bytes. `warmUp`: raw bytes
   * that the encoding is given before its saving is measured.
   */
  constructor(expectedMsPerByte: number, warmUp = 0) {
    this.#expectedMsPerByte = expectedMsPerByte;
    this.#warmUp = warmUp;
  }

  /** Learns that `raw` bytes were encoded to `encoded` bytes in `ms` milliseconds. */
  tried(raw: number, encoded: number, ms: number): void {
    this.#raw = this.#raw * 0.75 + raw;
    this.#encoded = this.#encoded * 0.75 + encoded;
    this.#ms = this.#ms * 0.75 + ms;
  }

  /** Milliseconds per raw byte with this encoding, over a link of `bytesPerMs`. A raw byte without encoding takes `1 / bytesPerMs`. */
  msPerByte(bytesPerMs: number): number {
    if (this.#raw === 0) return this.#expectedMsPerByte + 0.25 / bytesPerMs;
    return (this.#ms + this.#encoded / bytesPerMs) / this.#raw;
  }

  /** Whether to encode the next `raw` bytes. */
  pays(raw: number, bytesPerMs: number): boolean {
    if (this.#trial > 0) {
      this.#trial -= raw;
      return true;
    }
    if (this.msPerByte(bytesPerMs) < MARGIN / bytesPerMs) {
      if (this.#raw === 0) this.#trial = this.#warmUp - raw;
      this.#resting = 0;
      this.#rest = SHORTEST_REST;
      return true;
    }
    // The encoding was never tried, and is expected to be too slow for this link.
    if (this.#raw === 0) return false;
    this.#resting += raw;
    if (this.#resting < this.#rest) return false;
    this.#resting = 0;
    this.#rest = Math.min(this.#rest * 2, LONGEST_REST);
    this.#trial = Math.max(TRIAL, this.#warmUp) - raw;
    this.#raw *= MEMORY;
    this.#encoded *= MEMORY;
    this.#ms *= MEMORY;
    return true;
  }
}
