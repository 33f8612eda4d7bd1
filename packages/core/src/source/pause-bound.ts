import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import type { DowntimeTerms } from '../round-record.js';

/** The step of a stop-and-copy that is under way, named by its term of the downtime. */
export type PauseTerm = keyof DowntimeTerms;

/**
 * The bound on the time that the guest stays paused before `go`: one limit for all steps, whichever of them hangs. Its clock starts
 * when `pause` has returned, and is stopped in `pre-switchover` and while RAM is compared. When the time is up, `signal` aborts
 * with `GODWIT_SWITCHOVER_OVERRAN`, whose message names the term that was under way.
 */
export class PauseBound {
  readonly #clock: Clock;
  /** The limit in milliseconds; 0 for no bound. */
  readonly limitMs: number;
  readonly #over = new AbortController();
  #timer: AbortController | undefined;
  #leftMs: number;
  #startedAt: number | undefined;
  #spentMs = 0;
  #term: PauseTerm = 'pauseMs';
  #termAt = 0;

  constructor(clock: Clock, limitMs: number) {
    this.#clock = clock;
    this.limitMs = limitMs;
    this.#leftMs = limitMs;
  }

  /** Aborts when the bound is passed. */
  get signal(): AbortSignal {
    return this.#over.signal;
  }

  /** The term that is under way, and for how many milliseconds. */
  get term(): { readonly name: PauseTerm; readonly ms: number } {
    return { name: this.#term, ms: this.#clock.now() - this.#termAt };
  }

  /** Milliseconds that have counted so far. */
  get elapsedMs(): number {
    return this.#spentMs + (this.#startedAt === undefined ? 0 : this.#clock.now() - this.#startedAt);
  }

  /** Sets the term that is under way. */
  enter(term: PauseTerm): void {
    this.#term = term;
    this.#termAt = this.#clock.now();
  }

  /** Starts the clock, or continues it. */
  run(): void {
    if (this.#startedAt !== undefined) return;
    this.#startedAt = this.#clock.now();
    if (this.limitMs === 0) return;
    const timer = new AbortController();
    this.#timer = timer;
    this.#clock.sleep(this.#leftMs, timer.signal).then(
      () => this.#over.abort(this.#overran()),
      () => {},
    );
  }

  /** Stops the clock until `run`. */
  hold(): void {
    if (this.#startedAt === undefined) return;
    const ms = this.#clock.now() - this.#startedAt;
    this.#startedAt = undefined;
    this.#spentMs += ms;
    this.#leftMs = Math.max(0, this.#leftMs - ms);
    this.#timer?.abort();
    this.#timer = undefined;
  }

  /** Throws when the bound is passed, even if its timer is late. */
  check(): void {
    this.signal.throwIfAborted();
    if (this.limitMs > 0 && this.elapsedMs > this.limitMs) throw this.#overran();
  }

  /** Aborts `signal` now, for another reason: the attempt is given up. */
  giveUp(reason: GodwitError): void {
    this.#over.abort(reason);
  }

  #overran(): GodwitError {
    const { name, ms } = this.term;
    return new GodwitError(
      'GODWIT_SWITCHOVER_OVERRAN',
      `the guest has been paused for ${this.elapsedMs.toFixed(0)} ms, and pauseLimitMs is ${this.limitMs} ms; under way: ` +
        `${TERM_WORDS[name]}, for ${ms.toFixed(0)} ms. The guest runs on at the source, and pre-copy goes on`,
    );
  }
}

/** The step that each term measures, for messages. */
export const TERM_WORDS: Readonly<Record<PauseTerm, string>> = {
  pauseMs: 'pausing the guest',
  harvestMs: 'collecting dirty pages',
  ramMs: 'sending the last pages',
  deviceMs: 'saving and sending device state',
  loadMs: 'loading device state at the destination',
  roundTripMs: 'waiting for an answer of the destination',
  resumeMs: 'starting the guest at the destination',
};
