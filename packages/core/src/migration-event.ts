import type { ErrorCode, GodwitError } from './errors.js';
import type { DestinationOwnershipState } from './ownership/destination-ownership.js';
import type { SourceOwnershipState } from './ownership/source-ownership.js';
import type { DowntimeTerms, PagesByKind, RoundRecord } from './round-record.js';

/**
 * States by QEMU's names where they mean the same (`MigrationStatus` in QEMU's qapi/migration.json).
 *
 * ```
 *                  reconnecting
 *                     ^ |
 *                     | v
 * none -> setup -> active -> [pre-switchover ->] device -> [settling ->] completed
 *           |         |             |             |            |
 *           +---------+-------------+-------------+------------+--> failed
 *           +---------+-------------+-------------+--> cancelling -> cancelled
 * ```
 *
 * `reconnecting`: the link was lost in pre-copy and is being made anew; the guest runs. `settling`: it was lost after
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
  /** Milliseconds until the guest is expected to run at the destination; `undefined` while it does not converge. */
  readonly remainingMs: number | undefined;
}

export interface DowntimeTerm {
  readonly predictedMs: number;
  readonly actualMs: number;
}

/** How a migration went. */
export interface MigrationSummary {
  readonly migrationId: string;
  readonly totalMs: number;
  /**
   * From the call of `pause` to the destination's `running`, on the source's clock, without `verifyMs` and `heldMs`.
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
}

export type MigrationEvent =
  | { readonly type: 'state'; readonly state: MigrationState; readonly previous: MigrationState }
  /** Who may run the guest has changed, as this side sees it: docs/switchover.md. */
  | { readonly type: 'ownership'; readonly ownership: SourceOwnershipState; readonly previous: SourceOwnershipState }
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
  /** Something works less well than asked: never silent. */
  | { readonly type: 'warning'; readonly code: ErrorCode; readonly message: string }
  /** The comparison of RAM between `ready` and `go`. */
  | { readonly type: 'verified'; readonly pages: number; readonly verifyMs: number }
  | { readonly type: 'completed'; readonly summary: MigrationSummary };

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
}

export type IncomingEvent =
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
  /** The guest runs here. What is left is to tell the source. */
  | { readonly type: 'running'; readonly resumeMs: number }
  /** A source has said hello; `prepare` is about to be called with its description. */
  | { readonly type: 'hello'; readonly migrationId: string; readonly peer: string; readonly description: unknown }
  | { readonly type: 'round'; readonly round: number; readonly pages: number }
  | {
      readonly type: 'progress';
      readonly pages: ReceivedPages;
      readonly wireBytes: number;
    }
  | { readonly type: 'warning'; readonly code: ErrorCode; readonly message: string }
  | { readonly type: 'completed'; readonly summary: IncomingSummary };
