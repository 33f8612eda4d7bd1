import {
  type DowntimeTerm,
  type DowntimeTerms,
  MIGRATION_TRANSITIONS,
  type MigrationEvent,
  type MigrationStatus,
  type MigrationSummary,
  type Progress,
  type RoundRecord,
} from '@godwit/core';
import { sourceLine } from './event-text.js';
import type {
  DowntimeModel,
  Known,
  PlainError,
  ProgressModel,
  RoundModel,
  SourceModel,
  StateMachine,
  SummaryModel,
  TrackerModel,
} from './migration-model.js';
import { known, knownRange, plainError, shortened } from './plain.js';
import { StateHistory } from './role-states.js';
import type { Sample } from './sample-series.js';

/** Most trackers in the model of one VM. */
const MOST_TRACKERS = 16;

/** The states of a source, as the engine has them. */
export const SOURCE_MACHINE: StateMachine = {
  states: Object.keys(MIGRATION_TRANSITIONS),
  next: MIGRATION_TRANSITIONS,
};

/** The terms of the downtime, in the order in which they occur. */
const TERMS: readonly (keyof DowntimeTerms)[] = [
  'pauseMs',
  'harvestMs',
  'ramMs',
  'deviceMs',
  'loadMs',
  'roundTripMs',
  'resumeMs',
];

/** The parts of a model that both roles share. */
export interface SharedParts {
  readonly round: (round: RoundModel) => void;
  readonly sample: (sample: Sample) => void;
}

/** Folds the source's events, and `status()` if there is one, into its part of the model. */
export class SourceSide {
  readonly id: string | undefined;
  readonly #shared: SharedParts;
  readonly #states = new StateHistory(SOURCE_MACHINE, 'none');
  #ownership = 'running';
  #attempt = 1;
  #downtimeLimitMs: Known = null;
  #bandwidthLimit: Known = null;
  #progress: ProgressModel = NO_PROGRESS;
  #pageSize: Known = null;
  #trackers: readonly TrackerModel[] = [];
  #last: RoundRecord | undefined;
  #lastRound = 0;
  #summary: MigrationSummary | undefined;
  #error: PlainError | null = null;

  constructor(id: string | undefined, shared: SharedParts) {
    this.id = id;
    this.#shared = shared;
    this.#states.enter('none', 0);
  }

  get ownership(): string {
    return this.#ownership;
  }

  get over(): boolean {
    return this.#summary !== undefined || this.#error !== null;
  }

  get state(): string {
    return this.#states.state;
  }

  get totalMs(): number | undefined {
    return this.#summary?.totalMs;
  }

  /** Takes an event; returns its line of the log. */
  take(event: MigrationEvent, atMs: number): ReturnType<typeof sourceLine> {
    switch (event.type) {
      case 'status':
        this.status(event.status, atMs);
        break;
      case 'state':
        this.#states.enter(event.state, atMs);
        break;
      case 'ownership':
        this.#ownership = event.ownership;
        break;
      case 'progress':
        this.#progressed(event.progress, atMs);
        break;
      case 'round':
        this.#round(event.round, atMs);
        break;
      case 'switchover-start':
        this.#attempt = event.attempt;
        break;
      case 'went-back':
        this.#attempt = event.attempt + 1;
        break;
      case 'bandwidth':
        this.#bandwidthLimit = event.bytesPerSecond;
        break;
      case 'completed':
        this.#summary = event.summary;
        break;
      case 'failed':
        this.#error = plainError(event.error);
        break;
      default:
    }
    return sourceLine(event);
  }

  /** Takes the current status, which the page shows. */
  status(status: MigrationStatus, atMs: number): void {
    this.#states.enter(status.state, atMs);
    this.#ownership = status.ownership;
    this.#attempt = status.attempt;
    this.limits(status);
    if (status.error !== undefined) this.#error = plainError(status.error);
    if (status.lastRound !== undefined && this.#lastRound < status.lastRound.round) this.#round(status.lastRound, atMs);
    this.#progressed(status.progress, atMs);
  }

  /** Sets the limits in force, where `status()` does not give them. */
  limits({
    downtimeLimitMs,
    bandwidthLimit,
  }: Partial<Pick<MigrationStatus, 'downtimeLimitMs' | 'bandwidthLimit'>>): void {
    this.#downtimeLimitMs = known(downtimeLimitMs);
    this.#bandwidthLimit = known(bandwidthLimit);
  }

  model(): SourceModel {
    return {
      id: this.id ?? null,
      states: this.#states.model(),
      ownership: this.#ownership,
      attempt: this.#attempt,
      downtimeLimitMs: this.#downtimeLimitMs,
      bandwidthLimit: this.#bandwidthLimit,
      progress: this.#progress,
      pageSize: this.#pageSize,
      trackers: this.#trackers,
      downtime: this.#downtime(),
      summary: this.#summary === undefined ? null : summaryModel(this.#summary),
      error: this.#error,
    };
  }

  #progressed(progress: Progress, atMs: number): void {
    this.#states.enter(progress.state, atMs);
    this.#progress = progressModel(progress);
    const all = Object.values(progress.pages).reduce((sum, pages) => sum + pages, 0);
    if (all > 0) this.#pageSize = progress.rawBytes / all;
    if (this.over) return;
    this.#shared.sample({
      atMs,
      wire: progress.wireBytesPerSecond,
      link: this.#last === undefined ? null : known(this.#last.linkBytesPerSecond),
      limit: this.#bandwidthLimit === 0 ? null : this.#bandwidthLimit,
      dirty: this.#last === undefined || this.#pageSize === null ? null : progress.dirtyPagesPerSecond * this.#pageSize,
      downtime: known(progress.predictedDowntimeMs),
      throttle: progress.throttle,
    });
  }

  #round(round: RoundRecord, atMs: number): void {
    this.#last = round;
    this.#lastRound = round.round;
    // No harvest follows the last round.
    if (round.trackers.length > 0) {
      this.#trackers = round.trackers
        .slice(0, MOST_TRACKERS)
        .map(({ name, exact, blindSpots }) => ({ name: shortened(name), exact, blindSpots: blindSpots ?? null }));
    }
    this.#shared.round(roundModel(round, atMs));
  }

  #downtime(): DowntimeModel | null {
    const summary = this.#summary;
    if (summary !== undefined) {
      if (summary.dryRun !== undefined) return null;
      const { predictedDowntimeMs, predictedDowntimeRangeMs, downtimeMs, downtime } = summary;
      // The pause of a background snapshot is not predicted: its summary has zeros in the place of predictions.
      if (summary.background !== undefined) {
        return {
          predictedMs: null,
          predictedRangeMs: null,
          actualMs: downtimeMs,
          terms: termsOf(Object.keys(downtime), (term) => ({
            predictedMs: null,
            rangeMs: null,
            actualMs: known(downtime[term].actualMs),
          })),
        };
      }
      return {
        predictedMs: known(predictedDowntimeMs),
        predictedRangeMs: knownRange(predictedDowntimeRangeMs),
        actualMs: downtimeMs,
        terms: termsOf(Object.keys(downtime), (term) => actualTerm(downtime[term])),
      };
    }
    const last = this.#last;
    if (last === undefined) return null;
    return {
      predictedMs: known(last.predictedDowntimeMs),
      predictedRangeMs: knownRange(last.predictedDowntimeRangeMs),
      actualMs: null,
      terms: termsOf(Object.keys(last.prediction), (term) => ({
        predictedMs: known(last.prediction[term]),
        rangeMs: knownRange(last.predictionRange[term]),
        actualMs: null,
      })),
    };
  }
}

function actualTerm({ predictedMs, rangeMs, actualMs }: DowntimeTerm) {
  return { predictedMs: known(predictedMs), rangeMs: knownRange(rangeMs), actualMs: known(actualMs) };
}

/** The known terms in their order, then those of a later version of the engine. */
function termsOf<T>(names: readonly string[], value: (term: keyof DowntimeTerms) => T): ({ term: string } & T)[] {
  const others = names.filter((name) => !(TERMS as readonly string[]).includes(name)) as (keyof DowntimeTerms)[];
  return [...TERMS, ...others].map((term) => ({ term, ...value(term) }));
}

const NO_PROGRESS: ProgressModel = {
  round: 0,
  roundPagesSent: 0,
  roundPages: 0,
  pages: {},
  rawBytes: 0,
  wireBytes: 0,
  deviceBytes: 0,
  savedBytes: 0,
  wireBytesPerSecond: 0,
  dirtyPagesPerSecond: 0,
  predictedDowntimeMs: null,
  remainingMs: null,
  remainingRangeMs: null,
  throttle: 0,
};

function progressModel({ state: _, elapsedMs: __, ...progress }: Progress): ProgressModel {
  return {
    ...progress,
    pages: { ...progress.pages },
    predictedDowntimeMs: known(progress.predictedDowntimeMs),
    remainingMs: known(progress.remainingMs),
    remainingRangeMs: knownRange(progress.remainingRangeMs),
  };
}

function summaryModel(summary: MigrationSummary): SummaryModel {
  return {
    totalMs: summary.totalMs,
    downtimeMs: summary.dryRun === undefined ? summary.downtimeMs : null,
    verified: summary.verified,
    verifiedPages: summary.verifiedPages,
    verifyMs: summary.verifyMs,
    heldMs: summary.heldMs,
    throttledMs: summary.throttledMs,
    rounds: summary.rounds.length,
    rawBytes: summary.rawBytes,
    wireBytes: summary.wireBytes,
    savedBytes: summary.savedBytes,
    attempts: summary.attempts.length + 1,
    runState: summary.runState,
    postcopy: summary.postcopy === undefined ? null : { ...summary.postcopy },
    background: backgroundModel(summary.background),
  };
}

function backgroundModel(report: MigrationSummary['background']): SummaryModel['background'] {
  if (report === undefined) return null;
  const { savingMs, protection } = report;
  const { pagesTotal, pagesCopied, faults, worstLatencyUs } = protection;
  return { pages: pagesTotal, copied: pagesCopied, savingMs, faults, worstLatencyUs };
}

function roundModel(round: RoundRecord, atMs: number): RoundModel {
  const { decision, prediction: _, predictionRange: __, trackers, ...figures } = round;
  // The time that the trackers' reports cover: that of the harvest where the round's numbers give it.
  const { newlyDirtyPages, dirtyPagesPerSecond, deferredPages, totalMs } = round;
  const exact = newlyDirtyPages > 0 && dirtyPagesPerSecond > 0 && deferredPages === 0;
  const seconds = exact ? newlyDirtyPages / dirtyPagesPerSecond : totalMs / 1000;
  return {
    ...figures,
    pages: { ...round.pages },
    atMs,
    linkBytesPerSecond: known(round.linkBytesPerSecond),
    predictedDowntimeMs: known(round.predictedDowntimeMs),
    predictedDowntimeRangeMs: knownRange(round.predictedDowntimeRangeMs),
    trackers: trackers.slice(0, MOST_TRACKERS).map(({ name, dirtyPages, failed }) => ({
      name: shortened(name),
      dirtyPages,
      pagesPerSecond: seconds > 0 ? dirtyPages / seconds : null,
      failed,
    })),
    action: decision.action,
    reason: shortened(decision.reason),
  };
}
