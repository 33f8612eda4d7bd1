import type { Clock } from '../clock.js';
import type { DowntimeTerms } from '../round-record.js';
import { type Estimate, guess, scaled } from './estimate.js';

/** The time after which an overrun counts half, in milliseconds; doubled with each further overrun. */
const FIRST_HALF_LIFE_MS = 1000;

/** A term in a stop-and-copy divided by the same term in the stop-and-copy before it. */
const AGAIN = guess(1, 0.5, 2);

/** The rest of a term that ran into the bound, divided by the time until the bound: the term may end at once, or go on. */
const OVERRUN = guess(1, 0, 3);

interface Overrun {
  readonly ms: number;
  readonly at: number;
  readonly halfLifeMs: number;
}

/**
 * Terms of the downtime as earlier stop-and-copies of this migration have measured them. A term that ran into the bound is expected to
 * do so again, but less as time passes, so that an obstacle which is gone does not block the switchover for ever.
 */
export class LearnedTerms {
  readonly #clock: Clock;
  readonly #measured = new Map<keyof DowntimeTerms, number>();
  readonly #overruns = new Map<keyof DowntimeTerms, Overrun>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Learns that the term has ended after `ms`. */
  measured(term: keyof DowntimeTerms, ms: number): void {
    this.#measured.set(term, ms);
    this.#overruns.delete(term);
  }

  /** Learns that the term was under way for `ms` when the stop-and-copy was given up. */
  overran(term: keyof DowntimeTerms, ms: number): void {
    const before = this.#overruns.get(term);
    const halfLifeMs = before === undefined ? FIRST_HALF_LIFE_MS : 2 * before.halfLifeMs;
    this.#overruns.set(term, { ms: Math.max(ms, before?.ms ?? 0), at: this.#clock.now(), halfLifeMs });
  }

  /** Forgets what was learned of a term whose work another process does from now on. */
  forget(term: keyof DowntimeTerms): void {
    this.#measured.delete(term);
    this.#overruns.delete(term);
  }

  /** The expected time of a term: as learned, or `otherwise` when nothing was learned of it. */
  expected(term: keyof DowntimeTerms, otherwise: Estimate): Estimate {
    const overrun = this.#overruns.get(term);
    const ms = this.#measured.get(term);
    const known = ms === undefined ? otherwise : scaled(guess(ms, ms, ms), AGAIN);
    if (overrun === undefined) return known;
    const again = overrun.ms * Math.exp((-Math.LN2 * (this.#clock.now() - overrun.at)) / overrun.halfLifeMs);
    if (again <= known.ms) return known;
    return guess(
      again,
      Math.min(known.lowMs, again * OVERRUN.lowMs),
      Math.max(known.highMs, overrun.ms * OVERRUN.highMs),
    );
  }
}
