import type { Clock } from '../clock.js';
import type { MigrationState, Progress } from '../migration-event.js';
import { allPages, noPages, type PagesByKind, type RoundRecord } from '../round-record.js';
import type { PageChannel } from './page-channel.js';

/**
 * Rounds that shrink by less than a twentieth do not shrink: a guest that rewrites the same pages faster than they are
 * sent settles at a factor of 1, give or take the noise.
 */
const NOT_SHRINKING = 0.95;

interface Totals {
  readonly pages: PagesByKind;
  readonly savedBytes: number;
  readonly wireBytes: number;
}

/** Counts what a migration has done so far and makes snapshots of it. Reading it costs nothing on the page path. */
export class ProgressMeter {
  readonly #clock: Clock;
  readonly startedAt: number;
  #channels: readonly PageChannel[] = [];
  /** Of channels whose connection is over. */
  #past: Totals = { pages: noPages(), savedBytes: 0, wireBytes: 0 };
  #round = 0;
  #roundPages = 0;
  #roundPagesSent = 0;
  #roundStartedAt = 0;
  /** Wire bytes before the round. */
  #roundStartedBytes = 0;
  #last: RoundRecord | undefined;
  #lastBytes = 0;
  #lastAt: number;
  #rate = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.startedAt = clock.now();
    this.#lastAt = this.startedAt;
  }

  /** The channels of the connection that is in use; those before it have ended. */
  set channels(channels: readonly PageChannel[]) {
    this.#past = this.totals();
    this.#channels = channels;
  }

  /** The round that is being sent, or was sent last, counted over the whole migration. */
  get round(): number {
    return this.#round;
  }

  get last(): RoundRecord | undefined {
    return this.#last;
  }

  get elapsedMs(): number {
    return this.#clock.now() - this.startedAt;
  }

  /** Returns the number of the round. */
  roundStarted(pages: number): number {
    this.#round++;
    this.#roundPages = pages;
    this.#roundPagesSent = 0;
    this.#roundStartedAt = this.#clock.now();
    this.#roundStartedBytes = this.totals().wireBytes;
    return this.#round;
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

  /** Wire bytes per second of the round so far, waiting included; 0 before the first byte. */
  get roundBytesPerSecond(): number {
    const ms = this.#clock.now() - this.#roundStartedAt;
    return ms > 0 ? ((this.totals().wireBytes - this.#roundStartedBytes) / ms) * 1000 : 0;
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

  /** Once in each interval: the rate is counted over the time since the call before. */
  snapshot(state: MigrationState, pageSize: number): Progress {
    const now = this.#clock.now();
    const { wireBytes } = this.totals();
    const intervalMs = now - this.#lastAt;
    this.#rate = intervalMs > 0 ? ((wireBytes - this.#lastBytes) / intervalMs) * 1000 : 0;
    this.#lastAt = now;
    this.#lastBytes = wireBytes;
    return this.present(state, pageSize);
  }

  /** As things stand, with the rate of the last interval. */
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
   * The rest of this round at its own pace, and then rounds that shrink by the same factor each (a geometric series):
   * with `f` = pages written in the last round / pages sent in it, what follows a round of `t` lasts `t * f / (1 - f)`
   * altogether. In round 1, what the guest writes is not known yet.
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

/** Of a migration that has not begun. */
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
