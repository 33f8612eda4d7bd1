import type { RoundRecord } from '../round-record.js';

/** The number of rounds without progress after which rounds count as stagnated. */
const ROUNDS = 10;

/** Rounds make no progress when the best of them is above this share of the best round before them. */
const NO_BETTER = 0.98;

/** A downtime below this multiple of the limit may still reach it by chance, since the number of dirty pages varies. */
const NEAR = 1.1;

/** Notices that rounds no longer lower the downtime, in a scenario that does not change with time. */
export class Stagnation {
  readonly why = `the last ${ROUNDS} rounds have not lowered the predicted downtime`;
  readonly #limitMs: number;
  readonly #last: number[] = [];
  #bestBefore = Number.POSITIVE_INFINITY;

  constructor(downtimeLimitMs: number) {
    this.#limitMs = downtimeLimitMs;
  }

  /** Takes a round; returns whether rounds no longer lower the downtime. */
  after({ phase, predictedDowntimeMs }: RoundRecord): boolean {
    if (phase !== 'pre-copy') return false;
    this.#last.push(predictedDowntimeMs);
    if (this.#last.length <= ROUNDS) return false;
    this.#bestBefore = Math.min(this.#bestBefore, this.#last.shift() as number);
    const best = Math.min(...this.#last);
    return best > this.#limitMs * NEAR && best >= this.#bestBefore * NO_BETTER;
  }
}
