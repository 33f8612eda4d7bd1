/** A small, fast generator of pseudo-random numbers (xorshift32): the same seed, the same numbers, on every machine. */
export class Random {
  #state: number;

  constructor(seed: number) {
    // The seed is multiplied so that neighbouring seeds begin differently. The state must not be zero, which xorshift
    // cannot leave.
    this.#state = Math.imul(seed | 0, 0x9e3779b1) ^ 0x6d2b79f5 || 1;
    for (let i = 0; i < 4; i++) this.next();
  }

  /** 0 to 2^32 - 1. */
  next(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return x >>> 0;
  }

  /** A whole number below `bound`. */
  below(bound: number): number {
    return this.next() % bound;
  }

  /** True once in `n` times. */
  oneIn(n: number): boolean {
    return this.below(n) === 0;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)] as T;
  }
}
