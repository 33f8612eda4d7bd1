import type { Clock } from '../clock.js';
import type { MigrationState, Progress } from '../migration-event.js';
import { allPages, noPages, type PagesByKind, type RoundRecord } from '../round-record.js';
import { DirtyCurve } from './dirty-curve.js';
import type { PageChannel } from './page-channel.js';
import { type RemainingTime, remainingTime } from './remaining-time.js';
import type { WireSpan } from './sent-rounds.js';
import { WireRate } from './wire-rate.js';

/** The values on which the remaining time depends, beside the rounds. */
export interface ProgressOutlook {
  /** Pages that are sent in a second, computed from the last pages, the link and the bandwidth limit; `undefined` while unknown. */
  readonly pagesPerSecond: number | undefined;
  /** Pages that are sent in a second without the bandwidth limit. */
  readonly pausedPagesPerSecond: number | undefined;
  readonly linkBytesPerSecond: number;
  readonly roundTripMs: number;
  readonly sinceHarvestMs: number;
  /**
   * The time for which the bandwidth limit holds back the next write, and the time that one write takes under the limit; 0 without
   * a limit.
   */
  readonly debtMs: number;
  readonly writeMs: number;
  readonly downtimeLimitMs: number;
  /** The throttle in force, from 0 to 0.99. */
  readonly throttle: number;
}

/** Bytes on all streams of all connections since the start. */
export interface WireCounts {
  /** Bytes that were written. */
  written(): number;
  /** Bytes that were written or are being written. */
  carried(): number;
  /** Bytes of device state that were written. */
  device(): number;
}

/** The states in which the guest is or was paused: the remaining time is that of the downtime. */
const PAUSED: readonly MigrationState[] = ['device', 'settling'];

/** A downtime that is under way may take this many milliseconds more than twice what was predicted. */
const PAUSED_SLACK_MS = 20;

interface Totals {
  readonly pages: PagesByKind;
  readonly savedBytes: number;
  /** The bytes of all streams, including those that are being written. */
  readonly wireBytes: number;
  readonly deviceBytes: number;
}

/** Counts pages and bytes of a migration and makes snapshots of its progress. Snapshots add no work to sending pages. */
export class ProgressMeter {
  readonly #clock: Clock;
  readonly startedAt: number;
  #channels: readonly PageChannel[] = [];
  /** Totals of channels whose connection is over. */
  #past = { pages: noPages() as PagesByKind, savedBytes: 0 };
  #round = 0;
  /** Hot pages that the round leaves for later. */
  deferredPages = 0;
  #roundAt = 0;
  #roundPages = 0;
  #roundPagesSent = 0;
  /** Pages that answers had taken when the round began. */
  #answeredBefore = 0;
  #last: RoundRecord | undefined;
  #lastPrecopy: RoundRecord | undefined;
  /** The last round that is complete. */
  #ended = 0;
  /** Pages that a harvest has found since the round was sent; `undefined` while the round is being sent. */
  #found: number | undefined = 0;
  /** The time at which the last round of pre-copy was over, from which the wait for a pause counts. */
  #decidedAt = 0;
  #roundBytes = 0;
  readonly #rate = new WireRate();
  readonly #curve = new DirtyCurve();
  readonly #outlook: () => ProgressOutlook;
  readonly #wire: WireCounts;
  readonly #answeredPages: () => number;

  /** `answeredPages`: owed pages that were sent as answers to requests, or ahead of further requests, modulo 2^32. */
  constructor(clock: Clock, outlook: () => ProgressOutlook, wire: WireCounts, answeredPages: () => number = () => 0) {
    this.#clock = clock;
    this.#outlook = outlook;
    this.#wire = wire;
    this.#answeredPages = answeredPages;
    this.startedAt = clock.now();
  }

  /** Sets the channels of the present connection; the previous ones have ended, and their totals are kept. */
  set channels(channels: readonly PageChannel[]) {
    const { pages, savedBytes } = this.totals();
    this.#past = { pages, savedBytes };
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

  /** Number of the last complete round; 0 before the first round is complete. */
  get roundsEnded(): number {
    return this.#ended;
  }

  /** Pages of the running round that are left, or else those that the last harvest has found. */
  get pagesOwed(): number {
    return this.#found ?? this.pagesLeft;
  }

  /** Pages that the running round leaves for later. */
  get pagesDeferred(): number {
    return this.#found === undefined ? this.deferredPages : 0;
  }

  get elapsedMs(): number {
    return this.#clock.now() - this.startedAt;
  }

  /** Begins a round of `pages` pages; returns its number. */
  roundStarted(pages: number): number {
    this.#round++;
    this.#roundAt = this.#clock.now();
    this.#roundPages = pages;
    this.#roundPagesSent = 0;
    this.#answeredBefore = this.#answeredPages();
    this.#found = undefined;
    return this.#round;
  }

  /** Notes the number of pages that the next round has to send: those of the last harvest and those left from the round before. */
  harvested(pages: number): void {
    this.#found = pages;
  }

  batchSent(pages: number): void {
    this.#roundPagesSent += pages;
    this.wrote();
  }

  /** Notes that pages or device state are being written. */
  wrote(): void {
    this.#rate.note(this.#clock.now(), this.#wire.written());
  }

  /** Begins to count the bytes that all streams write; `span` returns those written since. */
  wire(): { readonly span: WireSpan } {
    const counts = this.#wire;
    const written = counts.written();
    const device = counts.device();
    return {
      get span() {
        return { wireBytes: counts.written() - written, deviceBytes: counts.device() - device };
      },
    };
  }

  /** Bytes of all rounds. */
  get roundBytes(): number {
    return this.#roundBytes;
  }

  /** Notes that over another connection only these pages of the round are still to be sent. */
  roundOwes(pages: number): void {
    this.#roundPagesSent = Math.max(0, this.#roundPages - pages);
  }

  /** Pages of the round that were not handed to a channel. */
  get pagesLeft(): number {
    return Math.max(0, this.#roundPages - this.#sent);
  }

  /** Pages of the round that were handed to a channel, or taken for answers. */
  get #sent(): number {
    return this.#roundPagesSent + ((this.#answeredPages() - this.#answeredBefore) >>> 0);
  }

  roundEnded(record: RoundRecord): void {
    this.#last = record;
    this.#ended = record.round;
    this.#roundBytes += record.wireBytes;
    if (record.phase !== 'pre-copy') return;
    this.#lastPrecopy = record;
    this.#decidedAt = this.#clock.now();
    this.#curve.add(record);
  }

  /** Pages by kind and bytes since the start. */
  totals(): Totals {
    const pages = { ...this.#past.pages };
    let { savedBytes } = this.#past;
    for (const { totals } of this.#channels) {
      for (const kind of Object.keys(pages) as (keyof typeof pages)[]) pages[kind] += totals[kind];
      savedBytes += totals.savedBytes;
    }
    return { pages, savedBytes, wireBytes: this.#wire.carried(), deviceBytes: this.#wire.device() };
  }

  /** A snapshot; may be taken at any time. */
  snapshot(state: MigrationState, pageSize: number): Progress {
    const now = this.#clock.now();
    const { pages, savedBytes, deviceBytes } = this.totals();
    const wireBytes = this.#wire.written();
    const remaining = this.#remaining(state, now);
    return {
      state,
      elapsedMs: now - this.startedAt,
      round: this.#round,
      roundPagesSent: this.#sent,
      roundPages: this.#roundPages,
      pages,
      rawBytes: allPages(pages) * pageSize,
      wireBytes,
      deviceBytes,
      savedBytes,
      wireBytesPerSecond: this.#rate.at(now, wireBytes),
      dirtyPagesPerSecond: this.#last?.dirtyPagesPerSecond ?? 0,
      predictedDowntimeMs: this.#last?.predictedDowntimeMs,
      remainingMs: remaining?.ms,
      remainingRangeMs: remaining?.range,
      throttle: this.#outlook().throttle,
    };
  }

  #remaining(state: MigrationState, now: number): RemainingTime | undefined {
    const last = this.#last;
    if (last === undefined) return undefined;
    if (PAUSED.includes(state)) return this.#downtimeLeft(last, now);
    const { pagesPerSecond, pausedPagesPerSecond, linkBytesPerSecond, downtimeLimitMs, ...outlook } = this.#outlook();
    if (state !== 'active' || !pagesPerSecond || !pausedPagesPerSecond) return undefined;
    // The rest fits within the limit, but rounds go on: the switchover waits for an obstacle of unknown duration.
    if (last.phase === 'pre-copy' && last.predictedDowntimeMs <= downtimeLimitMs) return undefined;
    return remainingTime(this.#curve, {
      ...this.#roundLeft(now, pagesPerSecond, pausedPagesPerSecond, linkBytesPerSecond, outlook),
      sinceHarvestMs: outlook.sinceHarvestMs,
      pagesPerSecond,
      pausedPagesPerSecond,
      // The acknowledgement of the pages, and the ping after it.
      roundMs: last.harvestMs + 2 * outlook.roundTripMs,
      fixedMs: last.predictedDowntimeMs - last.prediction.ramMs,
      downtimeLimitMs,
    });
  }

  /** The rest of the round, and the wait that the bandwidth limit then causes for the next one. */
  #roundLeft(
    now: number,
    pagesPerSecond: number,
    pausedPagesPerSecond: number,
    linkBytesPerSecond: number,
    { debtMs, writeMs, roundTripMs }: Pick<ProgressOutlook, 'debtMs' | 'writeMs' | 'roundTripMs'>,
  ): { readonly roundLeftMs: number; readonly debtMs: number } {
    const inFlight = this.#wire.carried() - this.#wire.written();
    const inFlightMs = linkBytesPerSecond > 0 ? (inFlight / linkBytesPerSecond) * 1000 : 0;
    const notHandedMs = (this.pagesLeft / pagesPerSecond) * 1000;
    // Pages that are being written are partly written: the time since the beginning of the round shows how many.
    const byTimeMs = (this.#roundPages / pagesPerSecond) * 1000 - (now - this.#roundAt);
    const latestMs = notHandedMs + inFlightMs;
    if (writeMs === 0) {
      return { roundLeftMs: Math.min(Math.max(byTimeMs, notHandedMs), latestMs) + roundTripMs, debtMs: 0 };
    }
    // Under a limit the wait for a write comes after it: the wait for the last one delays the next round.
    const lastMs = notHandedMs % writeMs;
    if (notHandedMs === 0) return { roundLeftMs: inFlightMs + roundTripMs, debtMs };
    const writtenMs = (lastMs * pagesPerSecond) / pausedPagesPerSecond;
    const roundLeftMs = Math.max(0, notHandedMs + debtMs - lastMs) + writtenMs + inFlightMs + roundTripMs;
    return { roundLeftMs, debtMs: lastMs };
  }

  #downtimeLeft({ predictedDowntimeMs }: RoundRecord, now: number): RemainingTime {
    const elapsedMs = now - this.#decidedAt;
    const ms = Math.max(0, predictedDowntimeMs - elapsedMs);
    return { ms, range: [ms / 2, Math.max(2 * predictedDowntimeMs - elapsedMs, elapsedMs / 2) + PAUSED_SLACK_MS] };
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
    deviceBytes: 0,
    savedBytes: 0,
    wireBytesPerSecond: 0,
    dirtyPagesPerSecond: 0,
    predictedDowntimeMs: undefined,
    remainingMs: undefined,
    throttle: 0,
    remainingRangeMs: undefined,
  };
}
