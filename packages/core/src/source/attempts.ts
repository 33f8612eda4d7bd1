import type { Clock } from '../clock.js';
import type { GodwitError } from '../errors.js';
import type { PauseTerm } from './pause-bound.js';

/** The shortest time between a first attempt that was given up and the next; doubled for each further one. Milliseconds. */
const FIRST_BACK_OFF_MS = 500;
const LONGEST_BACK_OFF_MS = 10_000;

/** A stop-and-copy that was given up. */
export interface FailedAttempt {
  readonly attempt: number;
  /** The term of the downtime that was under way. */
  readonly term: PauseTerm;
  /** How long the guest was paused, in milliseconds. */
  readonly pausedMs: number;
  readonly reason: GodwitError;
}

/** The stop-and-copies of one migration. */
export class Attempts {
  readonly #clock: Clock;
  readonly failed: FailedAttempt[] = [];
  #overruns = 0;
  #notBefore = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Number of attempts that took too long. An attempt that was given up because the link was lost does not count. */
  get overruns(): number {
    return this.#overruns;
  }

  /** Milliseconds until another attempt may begin. */
  get backOffMs(): number {
    return Math.max(0, this.#notBefore - this.#clock.now());
  }

  wentBack(attempt: FailedAttempt): void {
    this.failed.push(attempt);
    if (attempt.reason.code === 'GODWIT_SWITCHOVER_OVERRAN') this.#overruns++;
    const pause = FIRST_BACK_OFF_MS * 2 ** (this.failed.length - 1);
    this.#notBefore = this.#clock.now() + Math.min(pause, LONGEST_BACK_OFF_MS);
  }
}
