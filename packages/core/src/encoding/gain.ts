/** Raw bytes for which a loss is looked at again: more than a batch, since the first one has caches and threads to warm. */
const TRIAL = 2 * 2 ** 20;

/** Weight of what was learned before in what a trial teaches. */
const MEMORY = 0.1;

/** What an encoding must save of the time that raw pages take: below that, measuring errors decide. */
const MARGIN = 0.95;

/** A loss is looked at again after this many raw bytes; after each further loss after twice as many, up to the most. */
const SHORTEST_REST = 16 * 2 ** 20;
const LONGEST_REST = 2 ** 28;

/**
 * Whether an encoding pays: the time it takes and the time that its bytes take on the link, against the time of the raw
 * bytes on the link. Both learned from what was encoded; older samples weigh less.
 */
export class Gain {
  #raw = 0;
  #encoded = 0;
  #ms = 0;
  readonly #expectedMsPerByte: number;
  #resting = 0;
  #rest = SHORTEST_REST;
  #trial = 0;

  /** `expectedMsPerByte`: what to believe of its time before it was tried. Its size is then believed to be a quarter. */
  constructor(expectedMsPerByte: number) {
    this.#expectedMsPerByte = expectedMsPerByte;
  }

  /** So many raw bytes became so many in so many milliseconds. */
  tried(raw: number, encoded: number, ms: number): void {
    this.#raw = this.#raw * 0.75 + raw;
    this.#encoded = this.#encoded * 0.75 + encoded;
    this.#ms = this.#ms * 0.75 + ms;
  }

  /** Milliseconds for each raw byte over a link of `bytesPerMs`; without the encoding it is `1 / bytesPerMs`. */
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
      this.#resting = 0;
      this.#rest = SHORTEST_REST;
      return true;
    }
    // Never tried, and by all that is known of it too slow for this link.
    if (this.#raw === 0) return false;
    this.#resting += raw;
    if (this.#resting < this.#rest) return false;
    this.#resting = 0;
    this.#rest = Math.min(this.#rest * 2, LONGEST_REST);
    this.#trial = TRIAL - raw;
    this.#raw *= MEMORY;
    this.#encoded *= MEMORY;
    this.#ms *= MEMORY;
    return true;
  }
}
