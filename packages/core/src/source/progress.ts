import type { Clock } from '../clock.js';
import type { MigrationState, Progress } from '../migration-event.js';
import { allPages, noPages, type PagesByKind, type RoundRecord } from '../round-record.js';
import type { PageChannel } from './page-channel.js';

/**
 * Factor between two rounds from which on they count as not shrinking. A guest that rewrites the same pages faster than they are
 * sent has a factor of 1, with some noise.
 */
const NOT_SHRINKING = 0.95;

interface Totals {
  readonly pages: PagesByKind;
  readonly savedBytes: number;
  readonly wireBytes: number;
}

/** Counts pages and bytes of a migration and makes snapshots of its progress. Snapshots cost nothing on the page path. */
export class ProgressMeter {
  readonly #clock: Clock;
  readonly startedAt: number;
  #channels: readonly PageChannel[] = [];
  /** Totals of channels whose connection is over. */
  #past: Totals = { pages: noPages(), savedBytes: 0, wireBytes: 0 };
  #round = 0;
  #roundPages = 0;
  #roundPagesSent = 0;
  #roundStartedAt = 0;
  #last: RoundRecord | undefined;
  #lastBytes = 0;
  #lastAt: number;
  #rate = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.startedAt = clock.now();
    this.#lastAt = this.startedAt;
  }

  /** Sets the channels of the present connection; the previous ones have ended, and their totals are kept. */
  set channels(channels: readonly PageChannel[]) {
    this.#past = this.totals();
    this.#channels = channels;
  }

  /** Number of the round that is being sent or was sent last, from 1, counted over the whole migration. */
  get round(): number {
    return this.#round;
  }

  get last(): RoundRecord | undefined {
    return this.#last;
  }

  get elapsedMs(): number {
    return this.#clock.now() - this.startedAt;
  }

  /** Begins a round of `pages` pages; returns its number. */
  roundStarted(pages: number): number {
    this.#round++;
    this.#roundPages = pages;
    this.#roundPagesSent = 0;
    this.#roundStartedAt = this.#clock.now();
    return this.#round;
  }

  batchSent(pages: number): void {
    this.#roundPagesSent += pages;
  }

  roundEnded(record: RoundRecord): void {
    this.#last = record;
  }

  /** Pages by kind and bytes since the start. */
  totals(): Totals {
    const pages = { ...this.#past.pages };
    let { savedBytes, wireBytes } = this.#past;
    for (const { totals, wireBytes: bytes } of this.#channels) {
      for (const kind of Object.keys(pages) as (keyof typeof pages)[]) pages[kind] += totals[kind];
      savedBytes += totals.savedBytes;
      wireBytes += bytes;
    }
    return { pages, savedBytes, wireBytes };
  }

  /** A snapshot whose rate is that since the previous call: to be called once in each interval. */
  snapshot(state: MigrationState, pageSize: number): Progress {
    const now = this.#clock.now();
    const { wireBytes } = this.totals();
    const intervalMs = now - this.#lastAt;
    this.#rate = intervalMs > 0 ? ((wireBytes - this.#lastBytes) / intervalMs) * 1000 : 0;
    this.#lastAt = now;
    this.#lastBytes = wireBytes;
    return this.present(state, pageSize);
  }

  /** A snapshot with the rate of the last interval; may be called at any time. */
  present(state: MigrationState, pageSize: number): Progress {
    const now = this.#clock.now();
    const { pages, savedBytes, wireBytes } = this.totals();
    const wireBytesPerSecond = this.#rate;
    return {
      state,
      elapsedMs: now - this.startedAt,
      round: this.#round,
      roundPagesSent: this.#roundPagesSent,
      roundPages: this.#roundPages,
      pages,
      rawBytes: allPages(pages) * pageSize,
      wireBytes,
      savedBytes,
      wireBytesPerSecond,
      dirtyPagesPerSecond: this.#last?.dirtyPagesPerSecond ?? 0,
      predictedDowntimeMs: this.#last?.predictedDowntimeMs,
      remainingMs: this.#remaining(now),
    };
  }

  /**
   * Estimates the remaining milliseconds: the rest of this round at its present rate, and then rounds that each shrink by the same
   * factor (a geometric series). With `f` = pages written in the last round / pages sent in it, the rounds after one of `t` ms last
   * `t * f / (1 - f)` ms together. In round 1 `f` is unknown and taken as 0. `undefined` when the rounds do not shrink.
   */
  #remaining(now: number): number | undefined {
    const ms = now - this.#roundStartedAt;
    if (this.#roundPagesSent === 0 || ms <= 0) return undefined;
    const pagesPerMs = this.#roundPagesSent / ms;
    const factor = this.#last === undefined ? 0 : this.#last.newlyDirtyPages / Math.max(1, this.#last.dirtyPages);
    if (factor >= NOT_SHRINKING) return undefined;
    const restMs = Math.max(0, this.#roundPages - this.#roundPagesSent) / pagesPerMs;
    const wholeMs = this.#roundPages / pagesPerMs;
    return restMs + (wholeMs * factor) / (1 - factor);
  }
}

/** The progress of a migration that has not begun. */
export function noProgress(state: MigrationState): Progress {
  return {
    state,
    elapsedMs: 0,
    round: 0,
    roundPagesSent: 0,
    roundPages: 0,
    pages: noPages(),
    rawBytes: 0,
    wireBytes: 0,
    savedBytes: 0,
    wireBytesPerSecond: 0,
    dirtyPagesPerSecond: 0,
    predictedDowntimeMs: undefined,
    remainingMs: undefined,
  };
}
