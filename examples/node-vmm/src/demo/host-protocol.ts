import type { IncomingSummary, MigrationSummary } from '@godwit/core';
import type { DemoEvent } from './demo-event.js';
import type { EncodingName } from './encodings.js';
import type { GuestSpec } from './guest-spec.js';

/** Where a host listens: what `listen` answers and `migrate` takes. */
export type Address =
  | { readonly transport: 'tcp'; readonly host: string; readonly port: number }
  | { readonly transport: 'unix'; readonly path: string };

export interface MigrateRequest {
  readonly address: Address;
  readonly downtimeLimitMs: number;
  /** Bytes per second; 0 is no limit. */
  readonly maxBandwidth: number;
  readonly maxRounds: number;
  readonly verify: boolean;
  readonly pageChannels: number;
  readonly workers: boolean;
  readonly encodings: readonly EncodingName[];
  /** File to record the migration into. */
  readonly record: string | undefined;
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
 * What the controller may ask of a host, and what comes back. Requests of a host may overlap (`cancel` during
 * `migrate`); each is answered once.
 */
export interface HostCommands {
  /** Builds the guest and runs it. */
  boot: {
    request: { readonly spec: GuestSpec; readonly blindTracker: string | undefined };
    reply: null;
  };
  /** Waits for a guest to come. */
  listen: {
    request: {
      readonly transport: 'tcp' | 'unix';
      /** Threads for page channels to start right away; 0: pages are read on the main thread. */
      readonly threads: number;
      readonly blindTracker: string | undefined;
    };
    reply: Address;
  };
  /** Resolves when the guest that came runs here. */
  adopt: { request: null; reply: IncomingSummary };
  /** Sends the guest away; resolves when it runs at the other side. */
  migrate: { request: MigrateRequest; reply: MigrationSummary };
  cancel: { request: null; reply: null };
  /** Pauses the guest, looks at every page it owns from outside, and lets it run on. */
  check: { request: null; reply: CheckReport };
  memory: { request: null; reply: MemoryReport };
  /** Frees a guest that has left. */
  release: { request: null; reply: null };
}

export type CommandName = keyof HostCommands;

/** Controller to host. */
export type HostRequest = { readonly id: number } & {
  [Name in CommandName]: { readonly command: Name; readonly request: HostCommands[Name]['request'] };
}[CommandName];

export interface WireError {
  readonly code: string;
  readonly message: string;
}

/** Host to controller. */
export type HostMessage =
  | { readonly type: 'reply'; readonly id: number; readonly value: unknown }
  | { readonly type: 'error'; readonly id: number; readonly error: WireError }
  | { readonly type: 'console'; readonly text: string }
  | { readonly type: 'defect'; readonly message: string }
  | { readonly type: 'migration'; readonly event: DemoEvent };
