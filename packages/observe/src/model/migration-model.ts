/**
 * A migration as data for a viewer: plain JSON, of bounded size however long the migration is. An unknown value is `null`; so is a
 * number that is not finite, such as the end of an open interval. Names of states are strings: a state that a viewer does not know is
 * shown by its name.
 */

/** Most rounds that a model has; beyond that, older rounds are thinned out. */
export const MOST_ROUNDS = 200;
/** Most points of a curve; beyond that, neighbouring points are averaged. */
export const MOST_SAMPLES = 600;
/** Most entries of the log; beyond that, the oldest are dropped. */
export const MOST_LOG_ENTRIES = 300;

/** A number that may be unknown or infinite. */
export type Known = number | null;
/** An interval that contains the value in nine cases of ten; an infinite end is `null`. */
export type KnownRange = readonly [low: Known, high: Known];

/** Which side owns the guest: at most one of them may run it. */
export type GuestPlace =
  /** The guest runs at the source, or its user has paused it there. */
  | 'source'
  /** The guest runs at the destination, or its user has paused it there. */
  | 'destination'
  /** The guest is paused for the switchover. */
  | 'between'
  /** The two sides could not settle which of them owns the guest. */
  | 'unknown';

/** A migration, from either side or both. Times are milliseconds since it began, sizes bytes. */
export interface MigrationModel {
  /** The form of this object. */
  readonly format: 'godwit-migration/1';
  readonly title: string;
  /** `recording`: made from the frames of a recorded migration, which hold less than the engine's events. */
  readonly origin: 'live' | 'recording';
  /** When the migration began, in ISO 8601. */
  readonly startedAt: string;
  /** Milliseconds from the migration's beginning until now or until its end. */
  readonly elapsedMs: number;
  /** Whether the migration is over: the model no longer changes. */
  readonly over: boolean;
  readonly guest: GuestPlace;
  readonly source: SourceModel | null;
  readonly destination: DestinationModel | null;
  readonly samples: Samples;
  readonly rounds: Rounds;
  readonly log: Log;
}

/** The states of a role as data: all known states, in order, and the legal steps between them. */
export interface StateMachine {
  readonly states: readonly string[];
  /** For each state, the states that may follow; empty if they are not known. */
  readonly next: Readonly<Record<string, readonly string[]>>;
}

/** The visits to one state so far. */
export interface StateVisit {
  readonly state: string;
  readonly times: number;
  /** Milliseconds in this state, over all visits except a current one. */
  readonly totalMs: number;
  /** When the state was entered last. */
  readonly enteredMs: number;
}

/** The last states, oldest first. */
export interface StateStep {
  readonly state: string;
  readonly atMs: number;
}

/** The states of a role: the present one, those that it was in, and the way through them. */
export interface RoleStates {
  readonly state: string;
  readonly machine: StateMachine;
  readonly visits: readonly StateVisit[];
  readonly path: readonly StateStep[];
}

/** A `GodwitError` as data: its code, and its message of at most 500 characters. */
export interface PlainError {
  readonly code: string;
  readonly message: string;
}

/** Numbers of pages by how they were sent. */
export type PageCounts = Readonly<Record<string, number>>;

/** The source's side of a migration. */
export interface SourceModel {
  readonly id: string | null;
  readonly states: RoleStates;
  /** This side's ownership of the guest: docs/switchover.md. */
  readonly ownership: string;
  readonly attempt: number;
  /** Milliseconds, and bytes per second (0: no limit). */
  readonly downtimeLimitMs: Known;
  readonly bandwidthLimit: Known;
  readonly progress: ProgressModel;
  readonly pageSize: Known;
  readonly trackers: readonly TrackerModel[];
  readonly downtime: DowntimeModel | null;
  readonly summary: SummaryModel | null;
  readonly error: PlainError | null;
}

/** `Progress` of `@godwit/core`, in JSON, without what other parts of the model have. */
export interface ProgressModel {
  readonly round: number;
  readonly roundPagesSent: number;
  readonly roundPages: number;
  readonly pages: PageCounts;
  readonly rawBytes: number;
  readonly wireBytes: number;
  readonly deviceBytes: number;
  readonly savedBytes: number;
  readonly wireBytesPerSecond: number;
  readonly dirtyPagesPerSecond: number;
  readonly predictedDowntimeMs: Known;
  readonly remainingMs: Known;
  readonly remainingRangeMs: KnownRange | null;
  readonly throttle: number;
}

/** A dirty tracker of the guest's memory. */
export interface TrackerModel {
  readonly name: string;
  /** False if the tracker may report pages that were not written. */
  readonly exact: boolean;
  /** The writers that the tracker cannot see, in words. */
  readonly blindSpots: string | null;
}

/** The downtime: predicted by the last decision, and actual once the guest has moved. Milliseconds. */
export interface DowntimeModel {
  readonly predictedMs: Known;
  readonly predictedRangeMs: KnownRange | null;
  /** `null` until the guest runs at the destination. */
  readonly actualMs: Known;
  readonly terms: readonly TermModel[];
}

/** One term of the downtime. Milliseconds. */
export interface TermModel {
  /** The key in `DowntimeTerms` of `@godwit/core`. */
  readonly term: string;
  readonly predictedMs: Known;
  readonly rangeMs: KnownRange | null;
  readonly actualMs: Known;
}

/** The summary of a migration that has succeeded. */
export interface SummaryModel {
  readonly totalMs: number;
  readonly downtimeMs: Known;
  readonly verified: boolean;
  readonly verifiedPages: number;
  readonly verifyMs: number;
  readonly heldMs: number;
  readonly throttledMs: number;
  readonly rounds: number;
  readonly rawBytes: number;
  readonly wireBytes: number;
  readonly savedBytes: number;
  readonly attempts: number;
  readonly runState: string | null;
  /** By post-copy: the pages that followed the guest, how many milliseconds they took, and how often the link was lost meanwhile. */
  readonly postcopy: { readonly pages: number; readonly ms: number; readonly lostLinks: number } | null;
  /**
   * Of a background snapshot, whose guest stays at the source: the pages that were saved, those of them that were copied first because the
   * guest was about to write them, how many milliseconds the saving took after the pause, how often a thread waited to write a page, and
   * the longest such wait in microseconds.
   */
  readonly background: {
    readonly pages: number;
    readonly copied: number;
    readonly savingMs: number;
    readonly faults: number;
    readonly worstLatencyUs: number;
  } | null;
}

/** The destination's side of a migration. */
export interface DestinationModel {
  readonly id: string | null;
  readonly peer: string | null;
  readonly states: RoleStates;
  readonly ownership: string;
  readonly round: number;
  readonly pages: PageCounts;
  readonly wireBytes: number;
  readonly faults: FaultsModel | null;
  /** Milliseconds; known once the guest runs here. */
  readonly loadMs: Known;
  readonly resumeMs: Known;
  readonly error: PlainError | null;
}

/** The page faults of a guest that runs before its memory is complete: `FaultStatus` of `@godwit/core`, in JSON. */
export interface FaultsModel {
  readonly pagesMissing: number;
  readonly pagesTotal: number;
  readonly pagesLost: number;
  readonly faults: number;
  readonly faultsPerSecond: number;
  readonly zeroFaults: number;
  readonly duplicatePages: number;
  /** Element n counts the faults that took 2^n to 2^(n+1) us. */
  readonly latencyDistribution: readonly number[];
  readonly worstLatencyUs: number;
  /** The longest total time that one thread has waited for pages, and the number of threads that have waited. */
  readonly worstBlockedUs: number;
  readonly blockedThreads: number;
  readonly remainingMs: Known;
}

/** Curves over time, one column each; all columns have the same length. Rates are in bytes per second. */
export interface Samples {
  readonly atMs: readonly number[];
  readonly wire: readonly Known[];
  /** The estimated rate of the link itself. */
  readonly link: readonly Known[];
  /** The bandwidth limit; `null` where there is none. */
  readonly limit: readonly Known[];
  readonly dirty: readonly Known[];
  /** The predicted downtime, in milliseconds. */
  readonly downtime: readonly Known[];
  readonly throttle: readonly Known[];
}

/** The rounds of a migration, of which a long one keeps only some. */
export interface Rounds {
  /** All rounds that have ended. */
  readonly count: number;
  /** The rounds that are kept, oldest first. */
  readonly kept: readonly RoundModel[];
}

/** `RoundRecord` of `@godwit/core`, in JSON. */
export interface RoundModel {
  readonly round: number;
  readonly phase: string;
  /** When the round ended, in milliseconds since the migration began. */
  readonly atMs: number;
  readonly dirtyPages: number;
  readonly deferredPages: number;
  readonly newlyDirtyPages: Known;
  readonly pages: PageCounts;
  readonly rawBytes: number;
  readonly wireBytes: number;
  readonly deviceBytes: number;
  readonly savedBytes: number;
  readonly harvestMs: Known;
  readonly scanMs: Known;
  readonly sendMs: Known;
  readonly limitMs: Known;
  readonly totalMs: Known;
  readonly throttle: number;
  readonly linkBytesPerSecond: Known;
  readonly dirtyPagesPerSecond: Known;
  readonly predictedDowntimeMs: Known;
  readonly predictedDowntimeRangeMs: KnownRange | null;
  /** Each tracker's report at the harvest after the round, by the tracker's name, in pages and in pages per second. */
  readonly trackers: readonly TrackerReport[];
  readonly action: string | null;
  readonly reason: string | null;
}

/** The report of one dirty tracker at one harvest. */
export interface TrackerReport {
  readonly name: string;
  readonly dirtyPages: number;
  readonly pagesPerSecond: Known;
  readonly failed: boolean;
}

/** What has happened, as lines for people; of a long migration only the last ones. */
export interface Log {
  /** The number of older entries that were dropped. */
  readonly dropped: number;
  readonly entries: readonly LogEntry[];
}

/** A line of the log. `atMs` is milliseconds since the migration began. */
export interface LogEntry {
  readonly atMs: number;
  readonly side: 'source' | 'destination';
  readonly level: 'info' | 'good' | 'warning' | 'bad';
  readonly text: string;
}
