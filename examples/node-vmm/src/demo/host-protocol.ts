import type { IncomingEvent, IncomingSummary, MigrationEvent, MigrationSummary, PresetName } from '@godwit/core';
import type { DemoEvent } from './demo-event.js';
import type { EncodingName } from './encodings.js';
import type { GuestSpec } from './guest-spec.js';

/** The address at which a host listens: the reply to `listen`, and a part of the request `migrate`. */
export type Address =
  | { readonly transport: 'tcp'; readonly host: string; readonly port: number }
  | { readonly transport: 'unix'; readonly path: string };

export interface MigrateRequest {
  readonly address: Address;
  readonly downtimeLimitMs: number;
  /** Bytes per second; 0 is no limit. */
  readonly maxBandwidth: number;
  readonly maxRounds: number;
  readonly policy: PresetName | undefined;
  readonly timeBudgetMs: number | undefined;
  readonly verify: boolean;
  readonly pageChannels: number | 'auto';
  readonly workers: boolean;
  readonly encodings: readonly EncodingName[];
  /** File to record the migration into. */
  readonly record: string | undefined;
  /** Pass on the engine's own events, for a page. */
  readonly watched: boolean;
}

export interface MemoryReport {
  readonly guestBytes: number;
  readonly residentBytes: number;
}

export interface CheckReport {
  readonly pages: number;
  readonly defects: readonly string[];
}

/**
 * The commands of the controller to a host. They may overlap (`cancel` during `migrate`); each is answered once.
 */
export interface HostCommands {
  /** Builds the guest and runs it. */
  boot: {
    request: { readonly spec: GuestSpec; readonly blindTracker: string | undefined };
    reply: null;
  };
  /** Listens for an incoming guest. */
  listen: {
    request: {
      readonly transport: 'tcp' | 'unix';
      /** Number of threads for page channels, started at once; 0: pages are read on the main thread. */
      readonly threads: number;
      /** Pass on the engine's own events, for a page. */
      readonly watched: boolean;
      readonly blindTracker: string | undefined;
    };
    reply: Address;
  };
  /** Resolves when the incoming guest runs here. */
  adopt: { request: null; reply: IncomingSummary };
  /** Migrates the guest; resolves when it runs at the other host. */
  migrate: { request: MigrateRequest; reply: MigrationSummary };
  cancel: { request: null; reply: null };
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
 * An event of the engine, as it is but for errors, which are plain objects: structured clone would leave their codes out. `atMs` is when it
 * happened, in milliseconds since 1970.
 */
export type WatchedMessage = { readonly type: 'watched'; readonly atMs: number } & (
  | { readonly side: 'source'; readonly event: MigrationEvent }
  | { readonly side: 'destination'; readonly event: IncomingEvent }
);
