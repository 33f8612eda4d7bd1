import type { Estimate } from './estimate.js';

/** The number of samples that are kept: older ones say little about the next value. */
const KEPT = 16;

/**
 * The last 16 samples of a quantity, and what they say of the next one.
 *
 * The point is their median. The interval reaches from the smallest to the largest, both moved away by the factor `1 + 2 / n`: of `n`
 * samples that are alike, the next one lies between the smallest and the largest with a probability of `(n - 1) / (n + 1)`, which is 0
 * for one, a half for three and 88 % for sixteen. The factor makes up for the difference: 3 for one sample, 1.5 for four, 1.125 for
 * sixteen.
 */
export class Samples {
  readonly #values: number[] = [];

  /** Adds a sample; one that is not a finite number of 0 or more is ignored. */
  add(value: number): void {
    if (!Number.isFinite(value) || value < 0) return;
    this.#values.push(value);
    if (this.#values.length > KEPT) this.#values.shift();
  }

  clear(): void {
    this.#values.length = 0;
  }

  get count(): number {
    return this.#values.length;
  }

  /** What the next sample is expected to be; `undefined` without any. */
  get estimate(): Estimate | undefined {
    if (this.#values.length === 0) return undefined;
    const sorted = [...this.#values].sort((a, b) => a - b);
    const { length } = sorted;
    const middle = length >> 1;
    const at = (index: number) => sorted[index] as number;
    const ms = length % 2 === 1 ? at(middle) : (at(middle - 1) + at(middle)) / 2;
    const away = 1 + 2 / length;
    return { ms, lowMs: at(0) / away, highMs: at(length - 1) * away };
  }
}
