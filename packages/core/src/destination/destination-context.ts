import type { Claim } from '../claim/claim.js';
import type { Clock } from '../clock.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import type { PageEncoding } from '../encoding/page-encoding.js';
import type { ReceivedFrame } from '../link/frame-stream.js';
import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import type { IncomingEvent, IncomingState, IncomingSummary } from '../migration-event.js';
import type { FaultService, MissingMemory } from '../missing/missing-memory.js';
import type { DestinationOwnershipEvent, DestinationOwnershipState } from '../ownership/destination-ownership.js';
import type { Ownership } from '../ownership/ownership.js';
import type { OwnershipAuthority, Transfer } from '../ownership/ownership-authority.js';
import type { HelloFrame, MovedRunState, WelcomeFrame } from '../protocol/frame.js';
import type { DestinationPhaseName } from '../protocol/protocol-table.js';
import type { KeepaliveTimes } from '../session/keepalive.js';
import type { DestinationSession } from './destination-session.js';
import type { DeviceLoader } from './device-loader.js';
import type { IncomingConnection } from './incoming-connection.js';
import type { LoadForecast } from './load-forecast.js';
import type { PageReceiver } from './page-receiver.js';
import type { RamCheck } from './ram-check.js';

/** The options of `receive`, with their defaults. */
export interface IncomingOptions extends KeepaliveTimes {
  readonly clock: Clock;
  readonly random: (() => number) | undefined;
  readonly prepare: (description: unknown, hello: HelloFrame) => MigratableVm | Promise<MigratableVm>;
  readonly migrationId: string | undefined;
  readonly onArrival: 'run' | 'pause';
  /** Whether the guest of a snapshot runs before its pages are there. */
  readonly atOnce: boolean;
  /** Serves the pages of a guest that runs before they are there. */
  readonly faults: FaultService | undefined;
  readonly authority: OwnershipAuthority;
  readonly encodings: readonly PageEncoding[];
  readonly maximumDeviceState: number;
  readonly handshakeTimeoutMs: number;
  readonly reconnectTimeoutMs: number;
  readonly settleTimeoutMs: number;
  readonly progressIntervalMs: number;
}

/** The VM that is being received, and everything received so far; it outlives the connections. */
export interface Arriving {
  readonly vm: MigratableVm;
  readonly hello: HelloFrame;
  readonly claim: Claim;
  readonly windows: MemoryWindows;
  /** Pages that may have had contents before the migration: those that round 1 does not name are cleared at its end. */
  readonly contents: DirtyBitmaps;
  /** The first answer to the source. */
  readonly welcome: WelcomeFrame;
  /** The encodings that both sides use. */
  readonly encodings: readonly PageEncoding[];
  readonly loader: DeviceLoader;
  readonly forecast: LoadForecast;
  check: RamCheck;
  /** The receiver of the last connection's pages. */
  receiver: PageReceiver | undefined;
  /** The pages that the source has named: the guest runs here before these pages come. `undefined` when the source has named none. */
  named: DirtyBitmaps | undefined;
  /** Number of the stop-and-copy that the source is in or makes next, from 1. */
  attempt: number;
  /** How long loading took, in milliseconds. */
  loadMs: number;
  /** When `ready` was sent, in milliseconds of this side's clock. */
  readyAt: number;
  runState: MovedRunState;
  /** How long the VM's `resume` took, in milliseconds. */
  resumeMs: number;
  /** From `ready` to the running guest, in milliseconds. */
  sinceReadyMs: number;
}

/** The transfer that the ownership authority is asked about. */
export function transferOf({ hello, attempt, welcome }: Arriving): Transfer {
  return { migrationId: hello.migrationId, attempt, incarnation: welcome.incarnation };
}

/** Makes the next phase. A serving phase handles frames from the tick in which it is made. */
export interface DestinationPhases {
  receive(arriving: Arriving): ServingPhase;
  load(arriving: Arriving): ServingPhase;
  takeOver(arriving: Arriving): HandlingPhase;
  postCopy(arriving: Arriving, missing: MissingMemory): DestinationPhase;
  release(arriving: Arriving): DestinationPhase;
}

/** The parts of a migration at its destination that all phases share. */
export interface DestinationContext {
  readonly phases: DestinationPhases;
  readonly options: IncomingOptions;
  readonly ownership: Ownership<DestinationOwnershipState, DestinationOwnershipEvent>;
  readonly session: DestinationSession;
  readonly emit: (event: IncomingEvent) => void;
  readonly setState: (state: IncomingState) => void;
  /** The VM that `prepare` has built, from its claim until it is abandoned. */
  vm: MigratableVm | undefined;
  claim: Claim | undefined;
  /** The VM's memory while its pages may come with the guest running. */
  missing: MissingMemory | undefined;
  /** Set while `missing` is being undone, after the source has given up its post-copy. */
  undoing: Promise<void> | undefined;
  /** Settles when `missing` is set, or when it is certain that it will not be. */
  servingMissing: Promise<void>;
  /** True once no page is missing in the guest that has run here before that: there is nothing to give up. */
  pagesCame: boolean;
  /** Rejects when the embedder gives up the pages that are missing. */
  readonly pagesGivenUp: Promise<never>;
  /** Set once the VM is claimed and both sides have agreed on it. */
  arriving: Arriving | undefined;
  /** The phase that handles frames now. */
  serving: HandlingPhase | undefined;
}

/**
 * A phase of the destination. Its constructor takes values that only the phase before it can make; `run` resolves with the next
 * phase. Whatever it throws leads to `rollBack`.
 *
 * ```
 * set-up -> receive <-> load -> take-over -> [post-copy ->] release -> (arrived)        any -> roll-back
 * ```
 */
export interface DestinationPhase {
  readonly name: string;
  run(context: DestinationContext): Promise<DestinationPhase | Arrived>;
}

/** A phase in which the source sends frames. The next phase handles them from the tick in which the phase changes. */
export interface HandlingPhase extends DestinationPhase {
  /** The phase of the protocol, which decides the legal frames. */
  readonly protocolPhase: DestinationPhaseName;
  handle(received: ReceivedFrame): void | Promise<void>;
}

/** A phase in which the source may come back over another connection. */
export interface ServingPhase extends HandlingPhase {
  /** Reads this connection's frames and pages from now on. */
  take(connection: IncomingConnection): void;
  /**
   * Handles the hello of a source that has reconnected; returns the phase that the hello leads to, or throws when the hello contradicts
   * this phase.
   */
  returned(hello: HelloFrame): ServingPhase;
}

/** What `IncomingMigration.result` resolves with. */
export interface Received {
  readonly vm: MigratableVm;
  readonly summary: IncomingSummary;
}

/** The end of a successful incoming migration. */
export class Arrived {
  readonly received: Received;

  constructor(received: Received) {
    this.received = received;
  }
}
