import type { IncomingEvent, IncomingSummary, MigrationEvent, MigrationSummary, PresetName } from '@godwit/core';
import type { TlsCredentials } from '@godwit/transport';
import type { EncodingName } from '../vmm/encodings.js';
import type { GuestSpec } from '../vmm/guest-spec.js';
import type { CheckReport } from '../vmm/hosted-guest.js';
import type { DemoEvent } from './demo-event.js';

export interface MigrateRequest {
  /** The address of the other host: a URI, the reply of `listen`. */
  readonly address: string;
  readonly tls: TlsCredentials | undefined;
  readonly downtimeLimitMs: number;
  /** Bytes per second; 0 is no limit. */
  readonly maxBandwidth: number;
  readonly maxRounds: number;
  readonly policy: PresetName | undefined;
  readonly postcopy: boolean;
  /** Bytes per second; 0 is no limit. */
  readonly postcopyBandwidth: number;
  readonly timeBudgetMs: number | undefined;
  readonly verify: boolean;
  readonly pageChannels: number | 'auto';
  readonly workers: boolean;
  readonly encodings: readonly EncodingName[];
  /** The file into which the migration is recorded. */
  readonly record: string | undefined;
  /** Whether to pass on the engine's own events, for a page. */
  readonly watched: boolean;
}

export interface MemoryReport {
  readonly guestBytes: number;
  readonly residentBytes: number;
}

/**
 * The commands of the controller to a host. They may overlap (`cancel` during `migrate`); each is answered once.
 */
export interface HostCommands {
  /** Builds the guest and runs it. */
  boot: {
    request: { readonly spec: GuestSpec; readonly blindTracker: string | undefined; readonly dirtyRing: boolean };
    reply: null;
  };
  /** Listens for an incoming guest. */
  listen: {
    request: {
      /** A URI; `undefined`: a UNIX socket in a folder of its own. */
      readonly on: string | undefined;
      readonly tls: TlsCredentials | undefined;
      /** Number of threads for page channels, started at once; 0: pages are read on the main thread. */
      readonly threads: number;
      /** Whether to pass on the engine's own events, for a page. */
      readonly watched: boolean;
      readonly blindTracker: string | undefined;
      readonly dirtyRing: boolean;
    };
    /** The URI to connect to. */
    reply: string;
  };
  /** Resolves when the incoming guest runs here, with all its pages. */
  adopt: { request: null; reply: IncomingSummary };
  /** Migrates the guest; resolves when it runs at the other host, with all its pages. */
  migrate: { request: MigrateRequest; reply: MigrationSummary };
  cancel: { request: { readonly reason: string }; reply: null };
  /** Pauses the guest, checks every page that it owns from outside, and resumes it. */
  check: { request: null; reply: CheckReport };
  memory: { request: null; reply: MemoryReport };
  /** Frees a guest that was migrated away. */
  release: { request: null; reply: null };
}

/** Messages of a host to the controller, beside its answers. */
export type HostMessage =
  | { readonly type: 'console'; readonly text: string }
  | { readonly type: 'defect'; readonly message: string }
  | { readonly type: 'migration'; readonly event: DemoEvent }
  | WatchedMessage;

/**
 * An event of the engine, unchanged except for errors, which are plain objects: structured clone would omit their codes. `atMs` is the time
 * of the event, in milliseconds since 1970.
 */
export type WatchedMessage = { readonly type: 'watched'; readonly atMs: number } & (
  | { readonly side: 'source'; readonly event: MigrationEvent }
  | { readonly side: 'destination'; readonly event: IncomingEvent }
);
