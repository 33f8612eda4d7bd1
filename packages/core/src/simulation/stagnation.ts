import type { RoundRecord } from '../round-record.js';

/** Rounds that have to bring nothing, after at least as many. */
const ROUNDS = 10;

/** The best of them is no better than this share of the best before. */
const NO_BETTER = 0.98;

/** So near to the limit chance may still reach it: the number of dirty pages varies. */
const NEAR = 1.1;

/** Notices that rounds have stopped to lower the downtime, in a scenario in which nothing changes with time. */
export class Stagnation {
  readonly why = `the last ${ROUNDS} rounds have not lowered the predicted downtime`;
  readonly #limitMs: number;
  readonly #last: number[] = [];
  #bestBefore = Number.POSITIVE_INFINITY;

  constructor(downtimeLimitMs: number) {
    this.#limitMs = downtimeLimitMs;
  }

  /** Whether rounds bring nothing any more. */
  after({ phase, predictedDowntimeMs }: RoundRecord): boolean {
    if (phase !== 'pre-copy') return false;
    this.#last.push(predictedDowntimeMs);
    if (this.#last.length <= ROUNDS) return false;
    this.#bestBefore = Math.min(this.#bestBefore, this.#last.shift() as number);
    const best = Math.min(...this.#last);
    return best > this.#limitMs * NEAR && best >= this.#bestBefore * NO_BETTER;
  }
}
