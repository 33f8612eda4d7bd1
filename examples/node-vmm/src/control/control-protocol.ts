/**
 * The commands of a VMM's control socket: JSON objects, one a line. docs/node-vmm-control.md describes them for people.
 *
 *     > {"id":1,"command":"migrate","to":"tcp:192.0.2.7:4444","events":true}
 *     < {"id":1,"event":{"type":"progress","progress":{...}}}
 *     < {"id":1,"reply":{"to":"tcp:192.0.2.7:4444","downtimeMs":31.2,...}}
 */
import type {
  FaultStatus,
  IncomingStatus,
  MigrationEvent,
  MigrationStatus,
  MigrationSummary,
  PresetName,
} from '@godwit/core';
import type { Adjustment, DepartureSettings, Whereabouts } from '../vmm/departure.js';
import type { CheckReport } from '../vmm/hosted-guest.js';
import type { TlsFiles } from '../vmm/transport-of.js';
import type { ErrorAnswer } from './control-error.js';

/** `migrate` and `snapshot`: with it the events of the migration come before the reply. Default false. */
interface WithEvents {
  readonly events?: boolean;
}

/** Times in milliseconds, rates in bytes per second; see `MigrateOptions`. */
export interface MigrateRequest extends Omit<DepartureSettings, 'policy' | 'background'>, WithEvents {
  /** The destination's URI. Paths are the VMM's. */
  readonly to: string;
  readonly policy?: PresetName;
  readonly tls?: TlsFiles;
}

/** The figures of a migration that has succeeded; `rounds` is their number. */
export type MoveSummary = Omit<MigrationSummary, 'rounds'> & { readonly to: string; readonly rounds: number };

export interface SnapshotRequest extends WithEvents {
  /** The file; one that has this name is replaced when the new one is whole. */
  readonly path: string;
  readonly bandwidthLimit?: number;
  readonly downtimeLimitMs?: number;
  /** The guest goes on while it is saved, after a pause for its devices alone. Default false: it is paused for the end of it. */
  readonly live?: boolean;
  /** Ends the VMM once the snapshot is whole; the guest is then only in the file. Default false: it goes on. */
  readonly quit?: boolean;
}

export interface VmmStatus {
  readonly pid: number;
  /**
   * `empty`: there is no guest yet. `moved`: it was handed over; the VMM ends, by post-copy once all pages are there. `unknown`: it is paused here, and may run at the
   * destination. `ended`: it has crashed.
   */
  readonly guest: 'empty' | 'running' | 'paused' | 'moved' | 'unknown' | 'ended';
  readonly machine?: {
    readonly kind: 'kvm' | 'software';
    readonly memoryBytes: number;
    readonly vcpus: number;
    /** Memory that the host's kernel has given to it. */
    readonly allocatedBytes: number;
  };
  /** Where a guest is awaited. */
  readonly listening?: string;
  /** The migration that takes the guest away, or the last one that did not. */
  readonly migration?: Omit<MigrationStatus, 'error'> & {
    readonly to: string;
    readonly guest: Whereabouts;
    readonly error?: ErrorAnswer;
  };
  /** The migration that brings a guest, or has brought it. */
  readonly incoming?: Omit<IncomingStatus, 'error' | 'faults'> & {
    readonly error?: ErrorAnswer;
    readonly faults?: FaultStatus;
  };
}

/** What each command takes, beside `id` and `command`, and what it replies. */
export interface ControlCommands {
  status: { request: Record<never, never>; reply: VmmStatus };
  /** Replies when the guest runs at the destination, and has all its pages there. The migration goes on if the client leaves. */
  migrate: { request: MigrateRequest; reply: MoveSummary };
  /** Cancels the migration under way, to or from here; `false` where that is too late. */
  cancel: { request: { readonly reason?: string }; reply: { readonly cancelled: boolean } };
  /** Changes what the migration under way goes by. */
  adjust: { request: Adjustment; reply: Record<never, never> };
  /** Switches over now; with `force` whatever the downtime. */
  switchover: { request: { readonly force?: boolean }; reply: Record<never, never> };
  /** Switches over by post-copy now: the guest runs at the destination, and its pages follow. It takes `postcopy` in `migrate`. */
  postcopy: { request: Record<never, never>; reply: Record<never, never> };
  /** Asks the destination again whether it runs a guest of which that is unknown. */
  settle: { request: Record<never, never>; reply: { readonly guest: Whereabouts } };
  /** Runs the guest here, since the other side is dead for certain. */
  recover: { request: { readonly peerIsDead: boolean }; reply: Record<never, never> };
  snapshot: { request: SnapshotRequest; reply: MoveSummary };
  /** Lets the guest stand still, also at a destination that it moves to, until `resume`. Neither is possible while it is being moved. */
  pause: { request: Record<never, never>; reply: Record<never, never> };
  resume: { request: Record<never, never>; reply: Record<never, never> };
  /** Compares every page of the bundled guest with what it has written. */
  check: { request: Record<never, never>; reply: CheckReport };
  /** Ends the VMM and its guest. With a guest that may be lost by it, only with `force`. */
  quit: { request: { readonly force?: boolean }; reply: Record<never, never> };
}

export type ControlCommand = keyof ControlCommands;

export interface RequestLine {
  /** Given back in all that answers it. */
  readonly id: string | number | null;
  readonly command: ControlCommand;
  readonly request: Readonly<Record<string, unknown>>;
}

export type AnswerLine =
  | { readonly id: string | number | null; readonly reply: unknown }
  | { readonly id: string | number | null; readonly error: ErrorAnswer }
  | { readonly id: string | number | null; readonly event: MigrationEvent };
