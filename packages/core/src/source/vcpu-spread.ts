/** The largest share of its time for which a vCPU is held back. */
export const MOST_THROTTLE = 0.99;

/** Samples of a shorter time are not used, since they show little. Milliseconds. */
const LEAST_SAMPLE_MS = 20;

/** The weight of a new sample; the earlier rates have the rest. */
const NEW = 0.5;

/**
 * Spreads a throttle over vCPUs by their writes: all are limited to one rate of writes, so that vCPUs below that rate run at full
 * speed. Together they write as much less as with one throttle for all.
 */
export class VcpuSpread {
  #at: number;
  /** Writes in a millisecond of each vCPU at full speed; `undefined` before the first sample. */
  #rates: readonly number[] | undefined;

  /** Counting begins at `now`, a time in milliseconds. */
  constructor(now: number) {
    this.#at = now;
  }

  /**
   * Takes the writes of each vCPU since the last sample, during which it was held back for the share of time that `held` returns.
   */
  sample(now: number, writes: readonly number[], held: (vcpu: number) => number): void {
    const ms = now - this.#at;
    if (ms < LEAST_SAMPLE_MS) return;
    this.#at = now;
    const before = this.#rates;
    this.#rates = writes.map((count, vcpu) => {
      const rate = count / ms / (1 - held(vcpu));
      const known = before?.[vcpu];
      return known === undefined ? rate : known + NEW * (rate - known);
    });
  }

  /** The fraction for each vCPU; `undefined` before the first sample, while all are to be held back by `fraction`. */
  fractions(fraction: number): readonly number[] | undefined {
    return this.#rates === undefined ? undefined : spread(fraction, this.#rates);
  }
}

/** Finds the rate to which all vCPUs are limited, so that the sum of their rates falls by `fraction`. */
export function spread(fraction: number, rates: readonly number[]): readonly number[] {
  let left = rates.reduce((sum, rate) => sum + rate, 0) * (1 - fraction);
  if (left === 0) return rates.map(() => fraction);
  let level = Number.POSITIVE_INFINITY;
  const ascending = [...rates].sort((a, b) => a - b);
  for (const [index, rate] of ascending.entries()) {
    const share = left / (ascending.length - index);
    if (rate >= share) {
      level = share;
      break;
    }
    left -= rate;
  }
  return rates.map((rate) => (rate > level ? Math.min(MOST_THROTTLE, 1 - level / rate) : 0));
}
