/**
 * An input read as a series of decisions: the meaning of a byte depends on the question that it answers. So a mutation
 * of the bytes changes what the hostile peer does, and every sequence of bytes is a possible peer.
 */
export class Decisions {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get spent(): boolean {
    return this.#at >= this.#bytes.length;
  }

  /** The next byte, 0 to 255; 0 at the input's end. */
  byte(): number {
    return this.#bytes[this.#at++] ?? 0;
  }

  below(bound: number): number {
    return (bound <= 256 ? this.byte() : this.byte() * 256 + this.byte()) % bound;
  }

  /** True if the next byte is below `odds` of 256; false at the input's end. */
  odds(odds: number): boolean {
    return !this.spent && this.byte() < odds;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)] as T;
  }

  /** `usual`, or sometimes an unexpected number. */
  number(usual: number): number {
    if (!this.odds(40)) return usual;
    return this.pick([0, 1, -1, usual - 1, usual + 1, 2 ** 31, 2 ** 32, 2 ** 53 - 1, 0.5, Number.NaN, this.byte()]);
  }
}
