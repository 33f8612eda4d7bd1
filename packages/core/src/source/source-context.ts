import type { Claim } from '../claim/claim.js';
import type { DowntimeModel } from '../convergence/downtime-model.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import type { SentEncodings } from '../encoding/sent-encodings.js';
import type { GodwitError } from '../errors.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import type { MigrationEvent, MigrationState, MigrationSummary } from '../migration-event.js';
import type { Ownership } from '../ownership/ownership.js';
import type { SourceOwnershipEvent, SourceOwnershipState } from '../ownership/source-ownership.js';
import type { RoundRecord } from '../round-record.js';
import type { TrackerUnion } from '../tracker/tracker-union.js';
import type { Attempts } from './attempts.js';
import type { BandwidthLimit } from './bandwidth-limit.js';
import type { DeviceSender } from './device-sender.js';
import type { GivenUp } from './given-up.js';
import type { GuestPause } from './guest-pause.js';
import type { Harvester } from './harvester.js';
import type { ResolvedOptions } from './options.js';
import type { HandedOver, PausedTimes } from './paused-times.js';
import type { PrecopyRound } from './precopy-round.js';
import type { ProgressMeter } from './progress.js';
import type { Readiness } from './readiness.js';
import type { RoundTransfer } from './round-transfer.js';
import type { SourceConnection } from './source-connection.js';
import type { SourceSession } from './source-session.js';
import type { Wishes } from './wishes.js';

/** What a phase can lead to: each is made of what only the phase before it has. The list itself is in `source-run.ts`. */
export interface SourcePhases {
  preCopy(givenUp?: GivenUp): SourcePhase;
  stopAndCopy(last: PrecopyRound, connection: SourceConnection): SourcePhase;
  /** `giveUp` leads back to pre-copy, with everything that is still owed. */
  handOver(
    connection: SourceConnection,
    record: RoundRecord,
    times: PausedTimes,
    giveUp: (reason: GodwitError) => Promise<GivenUp>,
  ): SourcePhase;
  release(record: RoundRecord, times: PausedTimes, handed: HandedOver, predictedMs: number): SourcePhase;
}

/** Everything of a migration at its source that outlives a phase. */
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
  readonly encodings: SentEncodings;
  readonly limit: BandwidthLimit;
  readonly model: DowntimeModel;
  readonly meter: ProgressMeter;
  readonly readiness: Readiness;
  readonly attempts: Attempts;
  readonly rounds: RoundTransfer;
  readonly records: RoundRecord[];
  /** What the embedder asks for while it runs. */
  readonly wishes: Wishes;
  /** Made anew for a destination that was restarted. */
  harvester: Harvester;
  /** Ends the asking after `go`; another one for each time that is asked. */
  settling: AbortController;
  /** The authority has granted the transfer: from then on only the destination is asked. */
  transferred: boolean;
  readonly emit: (event: MigrationEvent) => void;
  readonly state: () => MigrationState;
  readonly setState: (state: MigrationState) => void;
}

/**
 * A phase of the source: takes what only the phase before it could have made, so that a wrong order does not compile, and resolves
 * with the next one. Whatever it throws leads to `rollBack`.
 *
 * ```
 * set-up -> pre-copy <-> stop-and-copy -> hand-over -> release -> (finished)        any -> roll-back
 * ```
 */
export interface SourcePhase {
  readonly name: string;
  run(context: SourceContext): Promise<SourcePhase | Finished>;
}

/** The end of a migration that went well. */
export class Finished {
  readonly summary: MigrationSummary;

  constructor(summary: MigrationSummary) {
    this.summary = summary;
  }
}
