import type { ErrorCode, GodwitError } from './errors.js';
import type { FaultStatus } from './missing/fault-status.js';
import type { DestinationOwnershipState } from './ownership/destination-ownership.js';
import type { SourceOwnershipState } from './ownership/source-ownership.js';
import type { BackgroundReport, ProtectionStatus } from './protect/protection-status.js';
import type { MovedRunState } from './protocol/frame.js';
import type { DowntimeTerms, PagesByKind, RoundRecord } from './round-record.js';

/**
 * States of a migration at its source, with QEMU's names where they mean the same (`MigrationStatus` in qapi/migration.json).
 *
 * ```
 *                  reconnecting <------------> device
 *                     ^ |
 *                     | v
 * none -> setup -> active -> [pre-switchover ->] device -> [settling ->] completed
 *                    ^              |              |
 *                    +--------------+--------------+   (went back)
 *           |         |             |             |            |
 *           +---------+-------------+-------------+------------+--> failed
 *           +---------+-------------+-------------+--> cancelling -> cancelled
 *
 * by post-copy:
 * active -> [pre-switchover ->] postcopy-device -> [settling ->] postcopy-active -> completed
 *                                                                 ^         |
 *                                                 postcopy-recover <-> postcopy-paused
 * ```
 *
 * - `postcopy-active`: the guest runs at the destination, and pages are missing there: both processes are needed. `postcopy-paused`: the
 *   link between the two is lost. `postcopy-recover`: the link is made anew. A vCPU that needs a missing page waits meanwhile.
 * - A background snapshot goes from `active`, where memory is protected, through `device` back to `active`, where its pages are saved, and
 *   from there to `completed`: the guest runs at the source all the time except in `device`.
 * - `reconnecting`: the link was lost before `go`, and the engine reconnects.
 * - `settling`: the link was lost after `go`, and the destination is asked over new connections.
 * - A dry run goes from `setup` to `completed`. After `go` (inside `device`) there is no way to `cancelled`.
 * - After `failed`, `Migration.ownership` says whether the guest runs at the source: in `unknown` it is paused.
 */
export type MigrationState =
  | 'none'
  | 'setup'
  | 'active'
  | 'reconnecting'
  | 'pre-switchover'
  | 'device'
  | 'postcopy-device'
  | 'postcopy-active'
  | 'postcopy-paused'
  | 'postcopy-recover'
  | 'settling'
  | 'completed'
  | 'failed'
  | 'cancelling'
  | 'cancelled';

/** A snapshot of a migration's progress; the event `progress` has one every `progressIntervalMs` (default 100). */
export interface Progress {
  readonly state: MigrationState;
  readonly elapsedMs: number;
  readonly round: number;
  /** Pages of the current round that were handed to a channel, and all pages of the round. */
  readonly roundPagesSent: number;
  readonly roundPages: number;
  /** Pages and bytes since the start. */
  readonly pages: PagesByKind;
  readonly rawBytes: number;
  /** Bytes that the source has written on all streams of all connections: `MigrationSummary.wireBytes` is the last value. */
  readonly wireBytes: number;
  /** The part of `wireBytes` that is device state, framing not included. */
  readonly deviceBytes: number;
  /** Bytes that deltas and compression have saved. */
  readonly savedBytes: number;
  /**
   * Wire bytes per second over about the last second, or over a longer time where writes are rarer; 0 once nothing is written. The rate is
   * measured from write to write, so that with a bandwidth limit, under which the source sends in bursts with pauses, it equals the limit.
   */
  readonly wireBytesPerSecond: number;
  /** The rate at the last harvest; 0 before the second one. */
  readonly dirtyPagesPerSecond: number;
  /** The prediction of the last decision; `undefined` before the first one. */
  readonly predictedDowntimeMs: number | undefined;
  /**
   * Milliseconds until the guest is expected to run at the destination; `undefined` while that is unknown: in round 1, before whose end the
   * guest's rate of writes is unknown, and while the migration does not converge.
   */
  readonly remainingMs: number | undefined;
  /** The share of time for which vCPUs are held back now, from 0 to 0.99. */
  readonly throttle: number;
  /**
   * The interval around `remainingMs` that contains the actual time in nine cases of ten, in milliseconds; `undefined` when `remainingMs`
   * is. Its end is `Infinity` where the migration may just as well not converge.
   */
  readonly remainingRangeMs: readonly [low: number, high: number] | undefined;
}

/** One term of the downtime: the prediction and the actual time. Milliseconds. */
export interface DowntimeTerm {
  readonly predictedMs: number;
  /** The interval that was expected to contain the actual time in nine cases of ten. */
  readonly rangeMs: readonly [low: number, high: number];
  readonly actualMs: number;
}

/** A stop-and-copy that was given up. */
export interface AttemptSummary {
  readonly attempt: number;
  /** The term of the downtime that was under way. */
  readonly term: keyof DowntimeTerms;
  /** How long the guest was paused, in milliseconds. */
  readonly pausedMs: number;
  readonly code: ErrorCode;
  readonly message: string;
}

/** Statistics of the pages that were missing when the guest began to run at the destination. */
export interface PostcopyReport {
  /** Pages that were missing when the guest began to run there. */
  readonly pages: number;
  /** From the guest's start there until no page was missing, in milliseconds. */
  readonly ms: number;
  /** How often the link was lost meanwhile. */
  readonly lostLinks: number;
}

/** The first decision of a shadow policy that would have ended pre-copy. */
export interface ShadowReport {
  /** The policy's name in `MigrateOptions.shadows`. */
  readonly name: string;
  /**
   * `force`: a switchover whatever the downtime. `none`: the policy has decided none of these. `failed`: the policy threw, or returned
   * something that is no decision or cannot be carried out; `reason` says which.
   */
  readonly action: 'switchover' | 'force' | 'postcopy' | 'abort' | 'none' | 'failed';
  /** The policy's own reason. */
  readonly reason: string;
  /** The last round that was complete at the decision. */
  readonly round: number;
  /** Milliseconds from the start of the migration to the decision. */
  readonly elapsedMs: number;
  /** The predicted downtime at the decision, in milliseconds. */
  readonly predictedDowntimeMs: number;
  /** Pages that were owed at the decision. */
  readonly owedPages: number;
}

/** The result of a dry run: hello and welcome were exchanged, and no page was sent. */
export interface DryRunReport {
  readonly peer: string;
  /** The destination's name and version. */
  readonly software: string;
  readonly version: number;
  /** The features that both sides would use. */
  readonly features: readonly string[];
  readonly ramBytes: number;
  readonly devices: readonly {
    readonly id: string;
    readonly version: number;
    readonly stateBytes: number;
    /** Why `stateBytes` is an assumption; absent when the device reports its size. */
    readonly assumed?: string;
  }[];
  /** Most bytes of device state that the destination holds. */
  readonly maximumDeviceState: number;
  /** The reasons why the VM cannot be migrated now; unless the list is empty, the dry run fails with `GODWIT_BLOCKED`. */
  readonly blockers: readonly string[];
}

/** The present state of a migration. */
export interface MigrationStatus {
  readonly state: MigrationState;
  readonly ownership: SourceOwnershipState;
  readonly progress: Progress;
  /** The last round that was acknowledged. */
  readonly lastRound: RoundRecord | undefined;
  /** The stop-and-copy that the source is in, or makes next; from 1. */
  readonly attempt: number;
  /** The limits in force, which `adjust` and the policy change: milliseconds, and wire bytes per second (0: no limit). */
  readonly downtimeLimitMs: number;
  readonly bandwidthLimit: number;
  /** The error of a migration that has failed. */
  readonly error: GodwitError | undefined;
}

/** The result of a migration. Times are milliseconds of the source's clock. */
export interface MigrationSummary {
  readonly migrationId: string;
  readonly totalMs: number;
  /**
   * The downtime that the guest saw: from the call of `pause` at the source until it ran at the destination, without `verifyMs` and
   * `heldMs`. Pauses of given-up attempts are in `attempts`.
   */
  readonly downtimeMs: number;
  readonly predictedDowntimeMs: number;
  /** The interval that was expected to contain the downtime in nine cases of ten, at the decision to switch over. */
  readonly predictedDowntimeRangeMs: readonly [low: number, high: number];
  /** The predicted and the actual downtime, term by term; the actual terms add up to `downtimeMs`. */
  readonly downtime: Readonly<Record<keyof DowntimeTerms, DowntimeTerm>>;
  /** Time to compare the RAM of both sides, with the guest paused; 0 without `verify`. */
  readonly verifyMs: number;
  /** Time in `pre-switchover`, until `proceed`. */
  readonly heldMs: number;
  /** True when the RAM of both sides was compared and is equal; false when it was not compared. */
  readonly verified: boolean;
  /** Number of pages that were compared. */
  readonly verifiedPages: number;
  /** The rounds, oldest first; at most the last 1,000. */
  readonly rounds: readonly RoundRecord[];
  readonly pages: PagesByKind;
  readonly rawBytes: number;
  /**
   * Bytes that the source has written on all streams of all connections, framing included: pages, device state and control frames (bytes
   * that the source reads, such as acknowledgements, are not counted). It is the sum of the rounds' `wireBytes` and `outsideRoundsBytes`.
   */
  readonly wireBytes: number;
  /** The part of `wireBytes` that is device state, framing not included; state that was sent again over another connection counts again. */
  readonly deviceBytes: number;
  /**
   * The part of `wireBytes` that belongs to no round: handshakes, keepalive between rounds, the switchover's frames, digests of `verify`.
   */
  readonly outsideRoundsBytes: number;
  /** Bytes that deltas and compression have saved. */
  readonly savedBytes: number;
  /** Stop-and-copies that were given up before the one that succeeded. */
  readonly attempts: readonly AttemptSummary[];
  /**
   * How much the guest was slowed: the share of its vCPUs' time for which they were held back, times milliseconds. 1,000 may be two seconds
   * at half speed.
   */
  readonly throttledMs: number;
  /** What each of `MigrateOptions.shadows` would have done, in their order. */
  readonly shadows: readonly ShadowReport[];
  /** The state of the guest before the migration, and at the destination unless the destination has `onArrival: 'pause'`. */
  readonly runState: MovedRunState;
  /** The report of a dry run; undefined otherwise. */
  readonly dryRun?: DryRunReport;
  /** The report of a migration by post-copy; undefined otherwise. */
  readonly postcopy?: PostcopyReport | undefined;
  /** The report of a background snapshot, after which the guest stays at the source; undefined otherwise. */
  readonly background?: BackgroundReport | undefined;
}

/** What happens to a migration, at its source; `type` says what. The last one is `completed` or `failed`. */
export type MigrationEvent =
  /** The first event of a subscriber that comes after the start. */
  | { readonly type: 'status'; readonly status: MigrationStatus }
  | { readonly type: 'state'; readonly state: MigrationState; readonly previous: MigrationState }
  /** This side's ownership of the guest has changed: docs/switchover.md. */
  | { readonly type: 'ownership'; readonly ownership: SourceOwnershipState; readonly previous: SourceOwnershipState }
  /** An attempt to make the first connection has failed; another one follows within `connectTimeoutMs`. */
  | { readonly type: 'connect-failed'; readonly reason: GodwitError; readonly attempt: number }
  | { readonly type: 'link-lost'; readonly reason: GodwitError }
  /**
   * The engine has reconnected after a lost link. With `restarted` the destination has lost everything, and the source sends everything
   * again.
   */
  | {
      readonly type: 'reconnected';
      readonly connection: number;
      readonly downMs: number;
      readonly restarted: boolean;
    }
  | { readonly type: 'progress'; readonly progress: Progress }
  /**
   * The guest has named its free pages before round 1 (`MigratableVm.freePages`), which does not send them. `complete`: it was done within
   * `freePagesTimeoutMs`.
   */
  | {
      readonly type: 'free-pages';
      readonly name: string;
      readonly pages: number;
      readonly ms: number;
      readonly complete: boolean;
    }
  /** A round begins. */
  | { readonly type: 'round-start'; readonly round: number; readonly dirtyPages: number }
  | { readonly type: 'round'; readonly round: RoundRecord }
  /** The guest is about to be paused, for at most `limitMs` milliseconds until `go`; 0: no limit. */
  | { readonly type: 'switchover-start'; readonly attempt: number; readonly limitMs: number }
  /** A stop-and-copy was given up: the guest runs at the source again, and pre-copy goes on. */
  | {
      readonly type: 'went-back';
      readonly attempt: number;
      /** The term of the downtime that was under way. */
      readonly term: keyof DowntimeTerms;
      /** How long the guest was paused, and the limit (0: none). Milliseconds. */
      readonly elapsedMs: number;
      readonly limitMs: number;
      readonly reason: GodwitError;
    }
  /** A switchover has waited for the destination, with the guest running, for longer than `readinessTimeoutMs`. */
  | { readonly type: 'not-prepared'; readonly waitedMs: number }
  /** The destination is prepared, after `not-prepared` was emitted. */
  | { readonly type: 'prepared'; readonly waitedMs: number }
  /** The downtime was longer than `downtimeLimitMs`, though the pause was within its bound. */
  | {
      readonly type: 'downtime-exceeded';
      readonly limitMs: number;
      readonly downtimeMs: number;
      /** The term that exceeded its prediction by the most milliseconds. */
      readonly term: keyof DowntimeTerms;
    }
  /**
   * No round can lower the downtime to the limit: the terms that do not depend on RAM take longer than the limit. The event comes once,
   * until the limit is reachable again.
   */
  | {
      readonly type: 'limit-unreachable';
      readonly code: 'GODWIT_LIMIT_UNREACHABLE';
      readonly limitMs: number;
      /** All terms but `ramMs`, together. */
      readonly fixedMs: number;
      readonly terms: DowntimeTerms;
    }
  /**
   * The guest's throttle has changed: by the policy's decision, because the guest was paused, or at the end. `vcpus`: the fraction of each
   * vCPU, where they differ; a change of `vcpus` alone has no event.
   */
  | {
      readonly type: 'throttle';
      readonly fraction: number;
      readonly previous: number;
      readonly reason: string;
      readonly vcpus?: readonly number[];
    }
  /** The policy has changed `bandwidthLimit`. Bytes per second; 0: no limit. */
  | {
      readonly type: 'bandwidth';
      readonly bytesPerSecond: number;
      readonly previous: number;
      readonly reason: string;
    }
  /** A shadow policy would have ended pre-copy now; the event comes once for each policy. */
  | { readonly type: 'shadow'; readonly shadow: ShadowReport }
  | { readonly type: 'dry-run'; readonly report: DryRunReport }
  /** The progress of a background snapshot, every `progressIntervalMs` and once at the end. */
  | { readonly type: 'protection'; readonly protection: ProtectionStatus }
  /** Something failed or is not available, and the migration goes on without it. */
  | { readonly type: 'warning'; readonly code: ErrorCode; readonly message: string }
  /** The RAM of both sides was compared between `ready` and `go`, and is equal. */
  | { readonly type: 'verified'; readonly pages: number; readonly verifyMs: number }
  | { readonly type: 'completed'; readonly summary: MigrationSummary }
  /** The last event of a failed migration; the stream then completes. */
  | { readonly type: 'failed'; readonly error: GodwitError };

/** Pages that a destination has received, by kind; holes come as zero pages. */
export type ReceivedPages = Omit<PagesByKind, 'hole'>;

/** States of a migration at its destination, with QEMU's names. */
export type IncomingState =
  | 'none'
  | 'setup'
  | 'active'
  | 'device'
  | 'postcopy-active'
  | 'postcopy-paused'
  | 'postcopy-recover'
  | 'completed'
  | 'failed';

/** The result of an incoming migration. Times are milliseconds of the destination's clock. */
export interface IncomingSummary {
  readonly migrationId: string;
  readonly rounds: number;
  readonly pages: ReceivedPages;
  readonly wireBytes: number;
  /** Time to load device state after `switchover`. */
  readonly loadMs: number;
  readonly resumeMs: number;
  readonly verified: boolean;
  /** The state of the guest here: `paused` if its user had paused it, or by `onArrival`. */
  readonly runState: MovedRunState;
  /** The page faults of a guest that ran before its memory was whole; undefined for other guests. */
  readonly faults?: FaultStatus | undefined;
}

/** The present state of an incoming migration. */
export interface IncomingStatus {
  readonly state: IncomingState;
  readonly ownership: DestinationOwnershipState;
  readonly migrationId: string | undefined;
  readonly pages: ReceivedPages;
  readonly wireBytes: number;
  /** The round that is being received, from 1. */
  readonly round: number;
  readonly error: GodwitError | undefined;
  /** The page faults of a guest that runs before its memory is whole; undefined for other guests. */
  readonly faults?: FaultStatus | undefined;
}

/** What happens to an incoming migration, at its destination; `type` says what. The last one is `completed` or `failed`. */
export type IncomingEvent =
  /** The first event of a subscriber that comes after the start. */
  | { readonly type: 'status'; readonly status: IncomingStatus }
  | { readonly type: 'state'; readonly state: IncomingState; readonly previous: IncomingState }
  /** This side's ownership of the guest has changed: docs/switchover.md. */
  | {
      readonly type: 'ownership';
      readonly ownership: DestinationOwnershipState;
      readonly previous: DestinationOwnershipState;
    }
  | { readonly type: 'link-lost'; readonly reason: GodwitError }
  /** The source has reconnected. */
  | { readonly type: 'reconnected'; readonly connection: number; readonly peer: string }
  /** The source has given up a stop-and-copy, and the guest runs there again. */
  | { readonly type: 'went-back'; readonly attempt: number }
  /** The link was lost with everything loaded: the source may be running the guest. This side waits, without a time limit. */
  | { readonly type: 'source-may-run'; readonly reason: GodwitError }
  /** The guest runs here; the source has not been told yet. */
  | { readonly type: 'running'; readonly resumeMs: number }
  /** A source has sent its hello; `prepare` is about to be called with its description. */
  | {
      readonly type: 'hello';
      readonly migrationId: string;
      readonly peer: string;
      readonly description: unknown;
      /** True for a dry run: the VM is abandoned once the source has its answer. */
      readonly dryRun: boolean;
    }
  | { readonly type: 'round'; readonly round: number; readonly pages: number }
  | {
      readonly type: 'progress';
      readonly pages: ReceivedPages;
      readonly wireBytes: number;
    }
  /** The page faults of a guest whose pages come while it runs, every `progressIntervalMs` and once at the end. */
  | { readonly type: 'faults'; readonly faults: FaultStatus }
  | { readonly type: 'warning'; readonly code: ErrorCode; readonly message: string }
  | { readonly type: 'completed'; readonly summary: IncomingSummary }
  /** The last event of a failed migration; the stream then completes. */
  | { readonly type: 'failed'; readonly error: GodwitError };
