import type { Claim } from '../claim/claim.js';
import type { Clock } from '../clock.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import type { PageEncoding } from '../encoding/page-encoding.js';
import type { ReceivedFrame } from '../link/frame-stream.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import type { IncomingEvent, IncomingState, IncomingSummary } from '../migration-event.js';
import type { DestinationOwnershipEvent, DestinationOwnershipState } from '../ownership/destination-ownership.js';
import type { Ownership } from '../ownership/ownership.js';
import type { OwnershipAuthority } from '../ownership/ownership-authority.js';
import type { HelloFrame, MovedRunState, WelcomeFrame } from '../protocol/frame.js';
import type { DestinationPhaseName } from '../protocol/protocol-table.js';
import type { KeepaliveTimes } from '../session/keepalive.js';
import type { DestinationSession } from './destination-session.js';
import type { DeviceLoader } from './device-loader.js';
import type { IncomingConnection } from './incoming-connection.js';
import type { PageReceiver } from './page-receiver.js';
import type { RamCheck } from './ram-check.js';

/** The options of `receive`, with their defaults. */
export interface IncomingOptions extends KeepaliveTimes {
  readonly clock: Clock;
  readonly random: (() => number) | undefined;
  readonly prepare: (description: unknown, hello: HelloFrame) => MigratableVm | Promise<MigratableVm>;
  readonly migrationId: string | undefined;
  readonly onArrival: 'run' | 'pause';
  readonly authority: OwnershipAuthority;
  readonly encodings: readonly PageEncoding[];
  readonly maximumDeviceState: number;
  readonly handshakeTimeoutMs: number;
  readonly reconnectTimeoutMs: number;
  readonly settleTimeoutMs: number;
  readonly progressIntervalMs: number;
}

/** The VM that is being received, and what has come of it so far; outlives the connections. */
export interface Arriving {
  readonly vm: MigratableVm;
  readonly hello: HelloFrame;
  readonly claim: Claim;
  readonly windows: MemoryWindows;
  /** What the source was told at first. */
  readonly welcome: WelcomeFrame;
  /** Those that were agreed on. */
  readonly encodings: readonly PageEncoding[];
  readonly loader: DeviceLoader;
  check: RamCheck;
  /** That of the last connection. */
  receiver: PageReceiver | undefined;
  /** The stop-and-copy that the source is in, or makes next. */
  attempt: number;
  /** How long loading took, in milliseconds. */
  loadMs: number;
  /** When `ready` was said, on this side's clock. */
  readyAt: number;
  runState: MovedRunState;
  resumeMs: number;
  sinceReadyMs: number;
}

/** What a phase can lead to. A phase that serves frames takes them from the tick on in which it is made. */
export interface DestinationPhases {
  receive(arriving: Arriving): ServingPhase;
  load(arriving: Arriving): ServingPhase;
  takeOver(arriving: Arriving): ServingPhase;
  release(arriving: Arriving): DestinationPhase;
}

/** Everything of a migration at its destination that outlives a phase. */
export interface DestinationContext {
  readonly phases: DestinationPhases;
  readonly options: IncomingOptions;
  readonly ownership: Ownership<DestinationOwnershipState, DestinationOwnershipEvent>;
  readonly session: DestinationSession;
  readonly emit: (event: IncomingEvent) => void;
  readonly setState: (state: IncomingState) => void;
  /** The VM that `prepare` has built and that is ours, from then until it is abandoned. */
  vm: MigratableVm | undefined;
  claim: Claim | undefined;
  /** Set once the VM is agreed on. */
  arriving: Arriving | undefined;
  /** The phase that takes frames now. */
  serving: ServingPhase | undefined;
}

/**
 * A phase of the destination: takes what only the phase before it could have made, and resolves with the next one. Whatever it throws
 * leads to `rollBack`.
 *
 * ```
 * set-up -> receive <-> load -> take-over -> release -> (arrived)        any -> roll-back
 * ```
 */
export interface DestinationPhase {
  readonly name: string;
  run(context: DestinationContext): Promise<DestinationPhase | Arrived>;
}

/** A phase in which the source sends frames. Its successor takes them from the tick on in which the phase changes. */
export interface ServingPhase extends DestinationPhase {
  /** Which frames may come. */
  readonly protocolPhase: DestinationPhaseName;
  handle(received: ReceivedFrame): void | Promise<void>;
  /** From now on this connection's frames and pages are read. */
  take(connection: IncomingConnection): void;
  /** The source has come back with this hello; returns the phase that this leads to, or throws when it makes no sense. */
  returned(hello: HelloFrame): ServingPhase;
}

/** What `IncomingMigration.result` resolves with. */
export interface Received {
  readonly vm: MigratableVm;
  readonly summary: IncomingSummary;
}

/** The end of an incoming migration that went well. */
export class Arrived {
  readonly received: Received;

  constructor(received: Received) {
    this.received = received;
  }
}
