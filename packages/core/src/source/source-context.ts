import type { Claim } from '../claim/claim.js';
import type { DowntimeModel } from '../convergence/downtime-model.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import type { SentEncodings } from '../encoding/sent-encodings.js';
import type { GodwitError } from '../errors.js';
import type { GuestSample } from '../estimate/sample-guest.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import type { MigrationEvent, MigrationState, MigrationSummary, PostcopyReport } from '../migration-event.js';
import type { Ownership } from '../ownership/ownership.js';
import type { SourceOwnershipEvent, SourceOwnershipState } from '../ownership/source-ownership.js';
import type { PageQueue } from '../queue/page-queue.js';
import type { RoundRecord } from '../round-record.js';
import type { ThreadRecipe } from '../thread-recipe.js';
import type { TrackerUnion } from '../tracker/tracker-union.js';
import type { Attempts } from './attempts.js';
import type { BandwidthLimit } from './bandwidth-limit.js';
import type { DeviceSender } from './device-sender.js';
import type { EmbedderRequests } from './embedder-requests.js';
import type { GuestPause } from './guest-pause.js';
import type { GuestThrottle } from './guest-throttle.js';
import type { Harvest, Harvester } from './harvester.js';
import type { HotPages } from './hot-pages.js';
import type { LimitReach } from './limit-reach.js';
import type { RoundCuts } from './mid-round.js';
import type { NamedFree } from './named-free.js';
import type { ResolvedOptions } from './options.js';
import type { PauseRehearsal } from './pause-rehearsal.js';
import type { HandedOver, PausedTimes } from './paused-times.js';
import type { LinkProbe } from './probe-link.js';
import type { ProgressMeter } from './progress.js';
import type { Readiness } from './readiness.js';
import type { RoundTransfer } from './round-transfer.js';
import type { ShadowPolicies } from './shadow-policies.js';
import type { SourceConnection, SourcePostcopy } from './source-connection.js';
import type { SourceSession } from './source-session.js';

/** A stop-and-copy that was given up: the guest runs again, and the destination does not know yet. */
export interface GivenUp {
  readonly attempt: number;
}

/** A round of pre-copy that the destination has acknowledged. */
export interface PrecopyRound {
  readonly record: RoundRecord;
  /** The pages that the guest wrote meanwhile: the next round, or the first one of stop-and-copy. */
  readonly pending: Harvest;
}

/** Makes the next phase, from values that only the phase before it has. `source-run.ts` implements it. */
export interface SourcePhases {
  preCopy(givenUp?: GivenUp): SourcePhase;
  stopAndCopy(last: PrecopyRound, connection: SourceConnection): SourcePhase;
  /** `giveUp` gives up the stop-and-copy; it resolves with the values with which pre-copy goes on. */
  handOver(
    connection: SourceConnection,
    record: RoundRecord,
    times: PausedTimes,
    giveUp: (reason: GodwitError) => Promise<GivenUp>,
  ): SourcePhase;
  /** Makes the phase in which the guest runs at the destination and pages are missing there. */
  postCopy(record: RoundRecord, times: PausedTimes, handed: HandedOver, predictedMs: number): SourcePhase;
  /** `target`: the recipe of the target to which the pages of a background snapshot are written. */
  background(connection: SourceConnection, target: ThreadRecipe): SourcePhase;
  release(record: RoundRecord, times: PausedTimes, handed: HandedOver, predictedMs: number): SourcePhase;
}

/** The fields of an estimate by which a migration is refused or admitted; `Estimate` has them. */
export interface Forecast {
  readonly converges: boolean;
  readonly totalMs: { readonly expected: number };
  readonly downtimeMs: { readonly expected: number };
  readonly reason: string | undefined;
}

/** Makes a forecast of this migration from measurements of its guest and its link. */
export type Forecaster = (
  sample: GuestSample,
  devices: readonly { readonly id: string; readonly bytes: number }[],
  link: LinkProbe,
  options: ResolvedOptions,
) => Promise<Forecast>;

/** The parts of a migration at its source that all phases share. */
export interface SourceContext {
  readonly phases: SourcePhases;
  readonly vm: MigratableVm;
  readonly options: ResolvedOptions;
  readonly claim: Claim;
  readonly ownership: Ownership<SourceOwnershipState, SourceOwnershipEvent>;
  readonly session: SourceSession;
  readonly windows: MemoryWindows;
  readonly guest: GuestPause;
  readonly devices: DeviceSender;
  readonly tracker: TrackerUnion;
  /** The pages that are owed to the destination. */
  readonly queue: PageQueue;
  readonly encodings: SentEncodings;
  readonly limit: BandwidthLimit;
  readonly model: DowntimeModel;
  readonly meter: ProgressMeter;
  readonly readiness: Readiness;
  readonly throttle: GuestThrottle;
  readonly shadows: ShadowPolicies;
  readonly reach: LimitReach;
  readonly watch: RoundCuts;
  readonly attempts: Attempts;
  readonly rehearsal: PauseRehearsal;
  readonly rounds: RoundTransfer;
  readonly records: RoundRecord[];
  /** The embedder's requests during the migration. */
  readonly requests: EmbedderRequests;
  /** The pages that the guest has freed: the destination has zeros there. */
  readonly namedFree: NamedFree;
  /** `undefined` when each round sends all dirty pages. */
  hotPages: HotPages | undefined;
  /** Replaced when the destination was restarted. */
  harvester: Harvester;
  /** Aborts the settlement after `go`; replaced for each settlement. */
  settling: AbortController;
  /** True once the authority has granted the transfer: from then on only the destination is asked. */
  transferred: boolean;
  /** The source's parts for post-copy; `undefined` where it is not offered. */
  readonly postcopy: SourcePostcopy | undefined;
  /** Whether the destination has agreed to post-copy, so that a policy may decide it. */
  readonly postcopyAgreed: boolean;
  /** True when the switchover that is under way, or has happened, is one by post-copy. */
  byPostcopy: boolean;
  /** The number of missing pages of which the destination was told. */
  missingPages: number;
  /** Pages that were missing when the guest began to run at the destination, and how long it has taken until none was. */
  postcopyReport: PostcopyReport | undefined;
  /** Of a background snapshot: whether its memory was frozen, and the bytes that were written beside the streams. */
  readonly background: { frozen: boolean; bytes: number };
  /** The time at which the guest was paused for the switchover, in milliseconds of the clock. */
  pausedAt: number;
  /** Forecasts this migration, for `refuseAbove`. */
  readonly forecast: Forecaster | undefined;
  readonly emit: (event: MigrationEvent) => void;
  readonly state: () => MigrationState;
  readonly setState: (state: MigrationState) => void;
}

/**
 * A phase of the source. Its constructor takes values that only the phase before it can make, so that a wrong order does not
 * compile; `run` resolves with the next phase. Whatever it throws leads to `rollBack`.
 *
 * ```
 * set-up -> pre-copy <-> stop-and-copy -> hand-over -> [post-copy ->] release -> (finished)        any -> roll-back
 *    +----> background -> (finished)
 * ```
 */
export interface SourcePhase {
  readonly name: string;
  run(context: SourceContext): Promise<SourcePhase | Finished>;
}

/** The end of a successful migration. */
export class Finished {
  readonly summary: MigrationSummary;

  constructor(summary: MigrationSummary) {
    this.summary = summary;
  }
}
