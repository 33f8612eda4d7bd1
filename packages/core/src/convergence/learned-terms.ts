import type { Clock } from '../clock.js';
import type { DowntimeTerms } from '../round-record.js';

/** The time after which an overrun counts half, in milliseconds; doubled with each further overrun. */
const FIRST_HALF_LIFE_MS = 1000;

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

  /** The expected milliseconds of a term: as learned, else `otherwise`. */
  expected(term: keyof DowntimeTerms, otherwise: number): number {
    const overrun = this.#overruns.get(term);
    const known = this.#measured.get(term) ?? otherwise;
    if (overrun === undefined) return known;
    return Math.max(known, overrun.ms * Math.exp((-Math.LN2 * (this.#clock.now() - overrun.at)) / overrun.halfLifeMs));
  }
}
