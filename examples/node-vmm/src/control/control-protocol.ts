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

/** `migrate` and `snapshot`: whether the events of the migration are sent before the reply. Default false. */
interface WithEvents {
  readonly events?: boolean;
}

/** Times in milliseconds, rates in bytes per second; see `MigrateOptions`. */
export interface MigrateRequest extends Omit<DepartureSettings, 'policy' | 'background'>, WithEvents {
  /** The destination's URI. Paths are relative to the VMM's working folder. */
  readonly to: string;
  readonly policy?: PresetName;
  readonly tls?: TlsFiles;
}

/** The figures of a migration that has succeeded; `rounds` is their number. */
export type MoveSummary = Omit<MigrationSummary, 'rounds'> & { readonly to: string; readonly rounds: number };

export interface SnapshotRequest extends WithEvents {
  /** The file; an existing file of this name is replaced when the new one is whole. */
  readonly path: string;
  readonly bandwidthLimit?: number;
  readonly downtimeLimitMs?: number;
  /**
   * Whether the guest goes on while it is saved, after a pause for its devices alone. Default false: it is paused for the end of the save.
   */
  readonly live?: boolean;
  /** Whether the VMM ends once the snapshot is whole; the guest is then only in the file. Default false: the guest goes on. */
  readonly quit?: boolean;
}

export interface VmmStatus {
  readonly pid: number;
  /**
   * `empty`: there is no guest yet. `moved`: the guest was handed over; the VMM ends, by post-copy once all pages are there. `unknown`: the
   * guest is paused here, and may run at the destination. `ended`: the guest has crashed.
   */
  readonly guest: 'empty' | 'running' | 'paused' | 'moved' | 'unknown' | 'ended';
  readonly machine?: {
    readonly kind: 'kvm' | 'software';
    readonly memoryBytes: number;
    readonly vcpus: number;
    /** Memory that the host's kernel has allocated to the guest. */
    readonly allocatedBytes: number;
    /** Memory that the guest has put into its balloon; absent without one. */
    readonly balloonBytes?: number;
  };
  /** The address at which the VMM waits for a guest. */
  readonly listening?: string;
  /** The migration that takes the guest away, or the last one that failed to. */
  readonly migration?: Omit<MigrationStatus, 'error'> & {
    readonly to: string;
    readonly guest: Whereabouts;
    readonly error?: ErrorAnswer;
  };
  /** The migration that brings a guest, or has brought one. */
  readonly incoming?: Omit<IncomingStatus, 'error' | 'faults'> & {
    readonly error?: ErrorAnswer;
    readonly faults?: FaultStatus;
  };
}

/** The request of each command, beside `id` and `command`, and its reply. */
export interface ControlCommands {
  status: { request: Record<never, never>; reply: VmmStatus };
  /** Moves the guest; replies when it runs at the destination and has all its pages there. The migration goes on if the client leaves. */
  migrate: { request: MigrateRequest; reply: MoveSummary };
  /** Cancels the migration under way, to or from here; the reply has `false` where it is too late. */
  cancel: { request: { readonly reason?: string }; reply: { readonly cancelled: boolean } };
  /** Changes the limits and the policy of the migration under way. */
  adjust: { request: Adjustment; reply: Record<never, never> };
  /** Switches over now; with `force` whatever the downtime. */
  switchover: { request: { readonly force?: boolean }; reply: Record<never, never> };
  /** Switches over by post-copy now: the guest runs at the destination, and its pages follow. Requires `postcopy` in `migrate`. */
  postcopy: { request: Record<never, never>; reply: Record<never, never> };
  /** Asks the destination again whether it runs a guest whose place is unknown. */
  settle: { request: Record<never, never>; reply: { readonly guest: Whereabouts } };
  /** Runs the guest here, since the caller knows that the other side is dead. */
  recover: { request: { readonly peerIsDead: boolean }; reply: Record<never, never> };
  snapshot: { request: SnapshotRequest; reply: MoveSummary };
  /** Pauses the guest until `resume`, also at a destination to which it moves later. Neither is possible while the guest is being moved. */
  pause: { request: Record<never, never>; reply: Record<never, never> };
  resume: { request: Record<never, never>; reply: Record<never, never> };
  /** Asks the guest to put so many bytes into its balloon, or to take out what is more. It takes its time. */
  balloon: { request: { readonly bytes: number }; reply: Record<never, never> };
  /** Presses the guest's power button. */
  powerButton: { request: Record<never, never>; reply: Record<never, never> };
  /** Compares every page of the bundled guest with the contents that the guest has written. */
  check: { request: Record<never, never>; reply: CheckReport };
  /** Ends the VMM and its guest. If a guest may be lost by this, `force` is required. */
  quit: { request: { readonly force?: boolean }; reply: Record<never, never> };
}

export type ControlCommand = keyof ControlCommands;

export interface RequestLine {
  /** Returned in every line that answers the request. */
  readonly id: string | number | null;
  readonly command: ControlCommand;
  readonly request: Readonly<Record<string, unknown>>;
}

export type AnswerLine =
  | { readonly id: string | number | null; readonly reply: unknown }
  | { readonly id: string | number | null; readonly error: ErrorAnswer }
  | { readonly id: string | number | null; readonly event: MigrationEvent };
