import type { ErrorCode, GodwitError } from './errors.js';
import type { DestinationOwnershipState } from './ownership/destination-ownership.js';
import type { SourceOwnershipState } from './ownership/source-ownership.js';
import type { MovedRunState } from './protocol/frame.js';
import type { DowntimeTerms, PagesByKind, RoundRecord } from './round-record.js';

/**
 * States by QEMU's names where they mean the same (`MigrationStatus` in QEMU's qapi/migration.json).
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
 * ```
 *
 * `reconnecting`: the link was lost before `go` and is being made anew. From `setup` a dry run completes. `settling`: it was lost after
 * `go`, and the destination is asked over a new one. After `go` (inside `device`) there is no way to `cancelled`. Whether
 * the guest runs at the source after `failed` is what `Migration.ownership` tells: in `unknown` it is paused.
 */
export type MigrationState =
  | 'none'
  | 'setup'
  | 'active'
  | 'reconnecting'
  | 'pre-switchover'
  | 'device'
  | 'settling'
  | 'completed'
  | 'failed'
  | 'cancelling'
  | 'cancelled';

/** A snapshot of a running migration, about ten times a second. */
export interface Progress {
  readonly state: MigrationState;
  readonly elapsedMs: number;
  readonly round: number;
  /** Pages of the current round that are sent, and all that it has. */
  readonly roundPagesSent: number;
  readonly roundPages: number;
  /** Since the start. */
  readonly pages: PagesByKind;
  readonly rawBytes: number;
  readonly wireBytes: number;
  /** Bytes that deltas and compression have taken off the contents of pages. */
  readonly savedBytes: number;
  /** Over the last interval. */
  readonly wireBytesPerSecond: number;
  /** From the last harvest; 0 before the second one. */
  readonly dirtyPagesPerSecond: number;
  /** From the last decision; `undefined` before the first one. */
  readonly predictedDowntimeMs: number | undefined;
  /**
   * Milliseconds until the guest is expected to run at the destination; `undefined` while that is unknown: in round 1, which has not shown
   * yet how much the guest writes, and while it does not converge.
   */
  readonly remainingMs: number | undefined;
}

export interface DowntimeTerm {
  readonly predictedMs: number;
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

/** What a dry run has found out: hello and welcome were exchanged, and no page. */
export interface DryRunReport {
  readonly peer: string;
  /** The destination's name and version. */
  readonly software: string;
  readonly version: number;
  /** What both sides would use. */
  readonly features: readonly string[];
  readonly ramBytes: number;
  readonly devices: readonly { readonly id: string; readonly version: number; readonly stateBytes: number }[];
  /** Most bytes of device state that the destination holds. */
  readonly maximumDeviceState: number;
  /** Why the VM cannot be migrated now, one reason each; with any, the dry run fails with `GODWIT_BLOCKED`. */
  readonly blockers: readonly string[];
}

/** Where a migration stands. */
export interface MigrationStatus {
  readonly state: MigrationState;
  readonly ownership: SourceOwnershipState;
  readonly progress: Progress;
  /** The last round that was acknowledged. */
  readonly lastRound: RoundRecord | undefined;
  /** The stop-and-copy that the source is in, or makes next; from 1. */
  readonly attempt: number;
  /** Why it failed, once it has. */
  readonly error: GodwitError | undefined;
}

/** How a migration went. */
export interface MigrationSummary {
  readonly migrationId: string;
  readonly totalMs: number;
  /**
   * What the guest saw: from the call of `pause` at the source until it ran at the destination, without `verifyMs` and `heldMs`.
   * Pauses that were given up are in `attempts`.
   */
  readonly downtimeMs: number;
  readonly predictedDowntimeMs: number;
  /** Predicted against actual, term by term; the actual terms add up to `downtimeMs`. */
  readonly downtime: Readonly<Record<keyof DowntimeTerms, DowntimeTerm>>;
  /** Comparing the RAM of both sides with the guest paused; 0 when `verify` is off. */
  readonly verifyMs: number;
  /** Time in `pre-switchover`, waiting for `proceed`. */
  readonly heldMs: number;
  /** True when the RAM of both sides was compared and is equal; false when it was not compared. */
  readonly verified: boolean;
  /** Pages compared. */
  readonly verifiedPages: number;
  /** The last 1,000 at most. */
  readonly rounds: readonly RoundRecord[];
  readonly pages: PagesByKind;
  readonly rawBytes: number;
  readonly wireBytes: number;
  /** Bytes that deltas and compression have taken off the contents of pages. */
  readonly savedBytes: number;
  /** Stop-and-copies that were given up before the one that succeeded. */
  readonly attempts: readonly AttemptSummary[];
  /** What the guest did before it was moved, and does there, unless the destination was told otherwise. */
  readonly runState: MovedRunState;
  /** Of a dry run, which has moved nothing. */
  readonly dryRun?: DryRunReport;
}

export type MigrationEvent =
  /** First, for whoever subscribes after the start. */
  | { readonly type: 'status'; readonly status: MigrationStatus }
  | { readonly type: 'state'; readonly state: MigrationState; readonly previous: MigrationState }
  /** Who may run the guest has changed, as this side sees it: docs/switchover.md. */
  | { readonly type: 'ownership'; readonly ownership: SourceOwnershipState; readonly previous: SourceOwnershipState }
  /** The first connection could not be made, and is tried again within `connectTimeoutMs`. */
  | { readonly type: 'connect-failed'; readonly reason: GodwitError; readonly attempt: number }
  | { readonly type: 'link-lost'; readonly reason: GodwitError }
  /** A lost link was made anew. With `restarted` the destination knew nothing of us: everything is sent again. */
  | {
      readonly type: 'reconnected';
      readonly connection: number;
      readonly downMs: number;
      readonly restarted: boolean;
    }
  | { readonly type: 'progress'; readonly progress: Progress }
  /** A round is about to be sent. */
  | { readonly type: 'round-start'; readonly round: number; readonly dirtyPages: number }
  | { readonly type: 'round'; readonly round: RoundRecord }
  /** The guest is about to be paused, for at most `limitMs` before `go`; 0: for as long as it takes. */
  | { readonly type: 'switchover-start'; readonly attempt: number; readonly limitMs: number }
  /** A stop-and-copy was given up: the guest runs here again, and pre-copy goes on. */
  | {
      readonly type: 'went-back';
      readonly attempt: number;
      /** The term that was under way. */
      readonly term: keyof DowntimeTerms;
      /** How long the guest was paused, and how long it may be. Milliseconds. */
      readonly elapsedMs: number;
      readonly limitMs: number;
      readonly reason: GodwitError;
    }
  /** A switchover waits for the destination, with the guest running, for longer than `readinessTimeoutMs`. */
  | { readonly type: 'not-prepared'; readonly waitedMs: number }
  /** The destination that was waited for has become ready for the switchover. */
  | { readonly type: 'prepared'; readonly waitedMs: number }
  /** The guest was down for longer than the limit, though the switchover was within the bound. */
  | {
      readonly type: 'downtime-exceeded';
      readonly limitMs: number;
      readonly downtimeMs: number;
      /** The term that exceeded its prediction by most. */
      readonly term: keyof DowntimeTerms;
    }
  /**
   * No round can lower the downtime to the limit: what does not depend on RAM takes longer than that. Once, until it is reachable again.
   */
  | {
      readonly type: 'limit-unreachable';
      readonly code: 'GODWIT_LIMIT_UNREACHABLE';
      readonly limitMs: number;
      /** All terms but `ramMs`, together. */
      readonly fixedMs: number;
      readonly terms: DowntimeTerms;
    }
  | { readonly type: 'dry-run'; readonly report: DryRunReport }
  /** Something works less well than asked: never silent. */
  | { readonly type: 'warning'; readonly code: ErrorCode; readonly message: string }
  /** The comparison of RAM between `ready` and `go`. */
  | { readonly type: 'verified'; readonly pages: number; readonly verifyMs: number }
  | { readonly type: 'completed'; readonly summary: MigrationSummary }
  /** Last, where it did not go well; the stream then completes. */
  | { readonly type: 'failed'; readonly error: GodwitError };

/** Pages that a destination has got, by how they came; holes come as zero. */
export type ReceivedPages = Omit<PagesByKind, 'hole'>;

/** States of the receiving side, by QEMU's names. */
export type IncomingState = 'none' | 'setup' | 'active' | 'device' | 'completed' | 'failed';

export interface IncomingSummary {
  readonly migrationId: string;
  readonly rounds: number;
  readonly pages: ReceivedPages;
  readonly wireBytes: number;
  /** Loading device state after `switchover`. */
  readonly loadMs: number;
  readonly resumeMs: number;
  readonly verified: boolean;
  /** What the guest does here: it was paused by its user, or is to be by `onArrival`. */
  readonly runState: MovedRunState;
}

/** Where an incoming migration stands. */
export interface IncomingStatus {
  readonly state: IncomingState;
  readonly ownership: DestinationOwnershipState;
  readonly migrationId: string | undefined;
  readonly pages: ReceivedPages;
  readonly wireBytes: number;
  /** The round that is being received, from 1. */
  readonly round: number;
  readonly error: GodwitError | undefined;
}

export type IncomingEvent =
  /** First, for whoever subscribes after the start. */
  | { readonly type: 'status'; readonly status: IncomingStatus }
  | { readonly type: 'state'; readonly state: IncomingState; readonly previous: IncomingState }
  /** Who may run the guest has changed, as this side sees it: docs/switchover.md. */
  | {
      readonly type: 'ownership';
      readonly ownership: DestinationOwnershipState;
      readonly previous: DestinationOwnershipState;
    }
  | { readonly type: 'link-lost'; readonly reason: GodwitError }
  /** The source has come back over another connection. */
  | { readonly type: 'reconnected'; readonly connection: number; readonly peer: string }
  /** The source has given a stop-and-copy up, and its guest runs there again. */
  | { readonly type: 'went-back'; readonly attempt: number }
  /** Complete, and cut off from the source, which may be running the guest: this side waits, without a timer. */
  | { readonly type: 'source-may-run'; readonly reason: GodwitError }
  /** The guest runs here. What is left is to tell the source. */
  | { readonly type: 'running'; readonly resumeMs: number }
  /** A source has said hello; `prepare` is about to be called with its description. */
  | {
      readonly type: 'hello';
      readonly migrationId: string;
      readonly peer: string;
      readonly description: unknown;
      /** The VM will be abandoned once the source has its answer. */
      readonly dryRun: boolean;
    }
  | { readonly type: 'round'; readonly round: number; readonly pages: number }
  | {
      readonly type: 'progress';
      readonly pages: ReceivedPages;
      readonly wireBytes: number;
    }
  | { readonly type: 'warning'; readonly code: ErrorCode; readonly message: string }
  | { readonly type: 'completed'; readonly summary: IncomingSummary }
  /** Last, where it did not go well; the stream then completes. */
  | { readonly type: 'failed'; readonly error: GodwitError };
