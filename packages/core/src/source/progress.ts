import type { Clock } from '../clock.js';
import type { MigrationState, Progress } from '../migration-event.js';
import { allPages, noPages, type PagesByKind, type RoundRecord } from '../round-record.js';
import type { PageChannel } from './page-channel.js';

/**
 * Factor between two rounds from which on they count as not shrinking. A guest that rewrites the same pages faster than they are
 * sent has a factor of 1, with some noise.
 */
const NOT_SHRINKING = 0.95;

/** Rounds that are added up at most: with the largest factor, what is left by then is nothing. */
const MOST_ROUNDS = 500;

/** What the time that is left depends on, beside the round itself. */
export interface Outlook {
  /** Pages that go out in a second, by what pages were like lately, the link and the bandwidth limit; `undefined` while unknown. */
  readonly pagesPerSecond: number | undefined;
  readonly downtimeLimitMs: number;
  /** The throttle in force, from 0 to 0.99. */
  readonly throttle: number;
}

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
  #last: RoundRecord | undefined;
  #lastPrecopy: RoundRecord | undefined;
  /** The last round that is complete. */
  #ended = 0;
  /** Pages that a harvest has found since the round was sent; `undefined` while it is being sent. */
  #found: number | undefined = 0;
  #lastBytes = 0;
  #lastAt: number;
  #rate = 0;
  readonly #outlook: () => Outlook;

  constructor(clock: Clock, outlook: () => Outlook) {
    this.#clock = clock;
    this.#outlook = outlook;
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

  /** The last complete round that was sent with the guest running. */
  get lastPrecopy(): RoundRecord | undefined {
    return this.#lastPrecopy;
  }

  /** Number of the last complete round; 0 before the first is. */
  get roundsEnded(): number {
    return this.#ended;
  }

  /** Pages of the running round that are left, or else those that the last harvest has found. */
  get pagesOwed(): number {
    return this.#found ?? this.pagesLeft;
  }

  get elapsedMs(): number {
    return this.#clock.now() - this.startedAt;
  }

  /** Begins a round of `pages` pages; returns its number. */
  roundStarted(pages: number): number {
    this.#round++;
    this.#roundPages = pages;
    this.#roundPagesSent = 0;
    this.#found = undefined;
    return this.#round;
  }

  /** The last harvest has found these pages, with what was left of the round before: the next round sends them. */
  harvested(pages: number): void {
    this.#found = pages;
  }

  batchSent(pages: number): void {
    this.#roundPagesSent += pages;
  }

  /** Over another connection only these pages of the round are still to be sent. */
  roundOwes(pages: number): void {
    this.#roundPagesSent = Math.max(0, this.#roundPages - pages);
  }

  /** Pages of the round that were not handed to a channel. */
  get pagesLeft(): number {
    return Math.max(0, this.#roundPages - this.#roundPagesSent);
  }

  roundEnded(record: RoundRecord): void {
    this.#last = record;
    this.#ended = record.round;
    if (record.phase === 'pre-copy') this.#lastPrecopy = record;
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
      remainingMs: this.#remaining(),
      throttle: this.#outlook().throttle,
    };
  }

  /**
   * Until the guest runs at the destination: the rest of this round, the rounds that follow until what is left fits into the limit, and
   * the downtime then. A round of `t` is followed by one of `t * f`, with `f` = pages dirtied in a second / pages sent in a second.
   * Unknown in round 1, which shows neither, and while rounds do not shrink.
   */
  #remaining(): number | undefined {
    const last = this.#last;
    const { pagesPerSecond, downtimeLimitMs } = this.#outlook();
    if (last === undefined || pagesPerSecond === undefined || pagesPerSecond <= 0) return undefined;
    if (last.phase === 'stop-and-copy') return 0;
    const factor = last.dirtyPagesPerSecond / pagesPerSecond;
    if (factor >= NOT_SHRINKING) return undefined;
    const fixedMs = last.predictedDowntimeMs - last.prediction.ramMs;
    let nextMs = (this.#roundPages / pagesPerSecond) * 1000 * factor;
    let ms = (this.pagesLeft / pagesPerSecond) * 1000;
    for (let rounds = 0; fixedMs + nextMs > downtimeLimitMs && nextMs > 1 && rounds < MOST_ROUNDS; rounds++) {
      ms += nextMs;
      nextMs *= factor;
    }
    return ms + nextMs + fixedMs;
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
    throttle: 0,
  };
}
