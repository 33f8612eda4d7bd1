/**
 * Pseudo-random numbers that are the same for the same seed, on every machine: xoshiro128** (D. Blackman, S. Vigna, "Scrambled linear
 * pseudorandom number generators", 2021), whose state is filled by SplitMix32 from the seed. The generator uses 32-bit integers only,
 * so that no JavaScript engine rounds differently.
 *
 * @example
 * const random = new Random(7);
 * const coin = random.fraction() < 0.5; // the same on every machine
 */
export class Random {
  #a: number;
  #b: number;
  #c: number;
  #d: number;

  constructor(seed: number) {
    let state = seed | 0;
    const split = () => {
      state = (state + 0x9e3779b9) | 0;
      let z = state;
      z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
      z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
      return z ^ (z >>> 16);
    };
    this.#a = split();
    this.#b = split();
    this.#c = split();
    this.#d = split();
  }

  /** 32 random bits, as a signed integer. */
  bits(): number {
    const b = this.#b;
    const scrambled = Math.imul(rotated(Math.imul(b, 5), 7), 9);
    this.#c ^= this.#a;
    this.#d ^= b;
    this.#b ^= this.#c;
    this.#a ^= this.#d;
    this.#c ^= b << 9;
    this.#d = rotated(this.#d, 11);
    return scrambled;
  }

  /** A number between 0 and 1, neither included. */
  fraction(): number {
    return ((this.bits() >>> 0) + 0.5) / 2 ** 32;
  }
}

function rotated(word: number, by: number): number {
  return (word << by) | (word >>> (32 - by));
}
