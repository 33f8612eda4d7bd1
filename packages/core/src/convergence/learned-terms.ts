import type { Clock } from '../clock.js';
import type { DowntimeTerms } from '../round-record.js';

/** An overrun is believed half as much after so long, and twice as long with each further one. Milliseconds. */
const FIRST_HALF_LIFE_MS = 1000;

interface Overrun {
  readonly ms: number;
  readonly at: number;
  readonly halfLifeMs: number;
}

/**
 * Terms of the downtime as stop-and-copies that were given up have shown them. A term that ran into the bound is expected to do so
 * again, and less so as time passes: an obstacle that has gone must not keep the guest here for ever.
 */
export class LearnedTerms {
  readonly #clock: Clock;
  readonly #measured = new Map<keyof DowntimeTerms, number>();
  readonly #overruns = new Map<keyof DowntimeTerms, Overrun>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** The term was over within `ms`. */
  measured(term: keyof DowntimeTerms, ms: number): void {
    this.#measured.set(term, ms);
    this.#overruns.delete(term);
  }

  /** The term was under way for `ms` when the stop-and-copy was given up. */
  overran(term: keyof DowntimeTerms, ms: number): void {
    const before = this.#overruns.get(term);
    const halfLifeMs = before === undefined ? FIRST_HALF_LIFE_MS : 2 * before.halfLifeMs;
    this.#overruns.set(term, { ms: Math.max(ms, before?.ms ?? 0), at: this.#clock.now(), halfLifeMs });
  }

  /** Milliseconds to expect of a term, where something is known of it; else `otherwise`. */
  expected(term: keyof DowntimeTerms, otherwise: number): number {
    const overrun = this.#overruns.get(term);
    const known = this.#measured.get(term) ?? otherwise;
    if (overrun === undefined) return known;
    return Math.max(known, overrun.ms * 0.5 ** ((this.#clock.now() - overrun.at) / overrun.halfLifeMs));
  }
}
