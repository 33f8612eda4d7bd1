import type {
  ErrorCode,
  IncomingSummary,
  MigrationEvent,
  MigrationState,
  MigrationSummary,
  Progress,
  RoundRecord,
} from '@godwit/core';
import type { GuestSpec } from './guest-spec.js';

/** The two host processes, by the part that each plays in the first migration. */
export type HostName = 'source' | 'destination';

export interface RunSettings {
  readonly transport: 'tcp' | 'unix';
  readonly downtimeLimitMs: number;
  /** Bytes per second; 0 is no limit. */
  readonly maxBandwidth: number;
  readonly roundTrips: number;
  readonly verify: boolean;
}

/**
 * Everything that happens in a run, in order. The views draw it, `--json` prints it: one object a line, `event` first.
 */
export type DemoEvent =
  /** The two processes are there. */
  | { readonly event: 'hosts'; readonly source: number; readonly destination: number }
  | {
      readonly event: 'guest';
      readonly host: HostName;
      readonly spec: GuestSpec;
      readonly settings: RunSettings;
      readonly note?: string;
    }
  | { readonly event: 'phase'; readonly phase: Phase }
  /** One line of the guest's console; `host` is where its last character was printed. */
  | { readonly event: 'console'; readonly host: HostName; readonly text: string; readonly beat?: number }
  | {
      readonly event: 'hop';
      readonly hop: number;
      readonly from: HostName;
      readonly to: HostName;
      readonly peer: string;
    }
  | { readonly event: 'state'; readonly state: MigrationState; readonly previous: MigrationState }
  | ({ readonly event: 'progress' } & Progress)
  | { readonly event: 'round-start'; readonly round: number; readonly dirtyPages: number }
  | ({ readonly event: 'round' } & RoundRecord)
  | { readonly event: 'warning'; readonly code: ErrorCode; readonly message: string }
  /** Every page of both sides was compared while the guest was paused. */
  | { readonly event: 'compared'; readonly pages: number; readonly verifyMs: number }
  /** The guest runs at the other host. */
  | ({ readonly event: 'migrated'; readonly hop: number } & MigrationSummary)
  | { readonly event: 'received'; readonly hop: number; readonly host: HostName; readonly summary: IncomingSummary }
  /** Memory that the host has really given to the guest, and the process's own. */
  | { readonly event: 'memory'; readonly host: HostName; readonly guestBytes: number; readonly residentBytes: number }
  | { readonly event: 'gap'; readonly hop: number; readonly guestGapMs: number }
  /** The checker outside the guest has looked at every page. */
  | { readonly event: 'checked'; readonly host: HostName; readonly pages: number; readonly defects: readonly string[] }
  | { readonly event: 'defect'; readonly host: HostName; readonly message: string }
  | { readonly event: 'cancelling' }
  /** The migration did not happen and the guest goes on where it was. */
  | { readonly event: 'runs-on'; readonly host: HostName; readonly beats: number; readonly defects: readonly string[] }
  | ({ readonly event: 'completed' } & Result)
  | { readonly event: 'failed'; readonly code: string; readonly message: string };

export type Phase = 'booting' | 'warming-up' | 'migrating' | 'settling' | 'checking' | 'done';

/** The last line of a run that went through, whether verified or not. The order of the keys is part of the format. */
export interface Result {
  readonly verified: boolean;
  /** All times in milliseconds; of several migrations, the sum of `totalMs` and `wireBytes` and the worst of the others. */
  readonly totalMs: number;
  readonly downtimeMs: number;
  readonly verifyMs: number;
  readonly guestGapMs: number;
  readonly rounds: number;
  readonly wireBytes: number;
  readonly predictedDowntimeMs: number;
  readonly migrations: number;
  readonly pagesCompared: number;
  readonly beats: number;
  readonly defects: number;
}

/** An event with the moment at which it reached the controller, milliseconds from the start. */
export type TimedEvent = DemoEvent & { readonly atMs: number };

/** What the engine says, in the demo's words; nothing for what its states and its summary say too. */
export function demoEvent(event: MigrationEvent): DemoEvent | undefined {
  switch (event.type) {
    case 'state':
      return { event: 'state', state: event.state, previous: event.previous };
    case 'progress':
      return { event: 'progress', ...event.progress };
    case 'round-start':
      return { event: 'round-start', round: event.round, dirtyPages: event.dirtyPages };
    case 'round':
      return { event: 'round', ...event.round };
    case 'warning':
      return { event: 'warning', code: event.code, message: event.message };
    case 'verified':
      return { event: 'compared', pages: event.pages, verifyMs: event.verifyMs };
    case 'link-lost':
      return { event: 'warning', code: event.reason.code, message: event.reason.message };
    default:
      return undefined;
  }
}
