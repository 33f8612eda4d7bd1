import type {
  DowntimeTerms,
  ErrorCode,
  FaultStatus,
  GodwitError,
  IncomingSummary,
  MigrationEvent,
  MigrationState,
  MigrationSummary,
  Progress,
  RoundRecord,
} from '@godwit/core';
import type { GuestSpec } from '../vmm/guest-spec.js';
import type { Distribution } from './distribution.js';
import type { TransportKind } from './transport-choice.js';

/** The two host processes, by their role in the first migration. */
export type HostName = 'source' | 'destination';

export interface RunSettings {
  readonly transport: TransportKind;
  readonly downtimeLimitMs: number;
  /** Bytes per second; 0 is no limit. */
  readonly maxBandwidth: number;
  readonly postcopy: boolean;
  /** Bytes per second; 0 is no limit. */
  readonly postcopyBandwidth: number;
  readonly roundTrips: number;
  readonly verify: boolean;
}

/**
 * The events of a run, in order. The views draw them; `--json` prints each as one object on a line, with `event` first.
 */
export type DemoEvent =
  /** The URL of the live page. */
  | { readonly event: 'page'; readonly url: string }
  /** Process ids of the two hosts, which have started. */
  | { readonly event: 'hosts'; readonly source: number; readonly destination: number }
  | {
      readonly event: 'guest';
      readonly host: HostName;
      readonly spec: GuestSpec;
      readonly settings: RunSettings;
      readonly note?: string;
    }
  | { readonly event: 'phase'; readonly phase: Phase }
  /** One line of the guest's console; its last character was printed at `host`. */
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
  /** The state of the migration when the demo subscribed to its events. */
  | { readonly event: 'status'; readonly state: MigrationState; readonly round: number; readonly attempt: number }
  /** The destination could not be reached; another attempt follows. */
  | { readonly event: 'connect-failed'; readonly attempt: number; readonly code: ErrorCode; readonly message: string }
  /** The guest is about to be paused, for at most `limitMs`; 0: no limit. */
  | { readonly event: 'switchover-start'; readonly attempt: number; readonly limitMs: number }
  /** A stop-and-copy was given up: the guest runs on at its host, and pre-copy goes on. */
  | {
      readonly event: 'went-back';
      readonly attempt: number;
      readonly term: keyof DowntimeTerms;
      readonly elapsedMs: number;
      readonly limitMs: number;
      readonly code: ErrorCode;
      readonly message: string;
    }
  /** A switchover waits for the destination, with the guest running. */
  | { readonly event: 'not-prepared'; readonly waitedMs: number }
  | { readonly event: 'prepared'; readonly waitedMs: number }
  | {
      readonly event: 'downtime-exceeded';
      readonly limitMs: number;
      readonly downtimeMs: number;
      readonly term: keyof DowntimeTerms;
    }
  /** No round can lower the downtime to the limit: the terms other than RAM take longer than the limit. */
  | { readonly event: 'limit-unreachable'; readonly limitMs: number; readonly fixedMs: number }
  /** The throttle of the guest has changed; `vcpus`: the share of each vCPU, where they differ. */
  | {
      readonly event: 'throttle';
      readonly fraction: number;
      readonly previous: number;
      readonly reason: string;
      readonly vcpus?: readonly number[];
    }
  /** The policy has changed the limit of the pre-copy. Bytes per second; 0: none. */
  | {
      readonly event: 'bandwidth';
      readonly bytesPerSecond: number;
      readonly previous: number;
      readonly reason: string;
    }
  /** The engine's error of a failed migration. */
  | { readonly event: 'migration-failed'; readonly code: ErrorCode; readonly message: string }
  /** Every page of both sides was compared while the guest was paused. */
  | { readonly event: 'compared'; readonly pages: number; readonly verifyMs: number }
  /** By post-copy: the statistics of the pages that are missing at the guest's host. */
  | ({ readonly event: 'faults' } & FaultStatus)
  /** The guest runs at the other host, with all its pages. */
  | ({ readonly event: 'migrated'; readonly hop: number } & MigrationSummary)
  | { readonly event: 'received'; readonly hop: number; readonly host: HostName; readonly summary: IncomingSummary }
  /** Memory that the host kernel has allocated to the guest, and the resident memory of the process. */
  | { readonly event: 'memory'; readonly host: HostName; readonly guestBytes: number; readonly residentBytes: number }
  | { readonly event: 'gap'; readonly hop: number; readonly guestGapMs: number }
  /** The checker outside the guest has checked every page. */
  | { readonly event: 'checked'; readonly host: HostName; readonly pages: number; readonly defects: readonly string[] }
  | { readonly event: 'defect'; readonly host: HostName; readonly message: string }
  /** A host process has ended unexpectedly; `message` says what that means for the guest. */
  | { readonly event: 'host-gone'; readonly host: HostName; readonly message: string }
  /** `late`: the guest already runs at the other host, and its last pages are still to come. */
  | { readonly event: 'cancelling'; readonly late: boolean }
  /** The migration has failed, and the guest runs on at its host. */
  | { readonly event: 'runs-on'; readonly host: HostName; readonly beats: number; readonly defects: readonly string[] }
  | ({ readonly event: 'completed' } & Result)
  /** `figures`: the results of the migrations that had completed before. */
  | { readonly event: 'failed'; readonly code: string; readonly message: string; readonly figures?: Result };

export type Phase = 'booting' | 'warming-up' | 'migrating' | 'settling' | 'checking' | 'done';

/**
 * The last event of a completed run, whether verified or not. `verified`: the RAM of both sides was compared, or by post-copy every page
 * was checked once it was there, and no defect was found. The order of the keys is part of the format.
 */
export interface Result {
  readonly verified: boolean;
  /** All times in milliseconds; for several migrations, `totalMs` and `wireBytes` are sums, and the others are the worst values. */
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
  readonly distribution: Distribution;
}

/** An event with the time at which it reached the controller, in milliseconds from the start. */
export type TimedEvent = DemoEvent & { readonly atMs: number };

/**
 * The demo's event for one of the engine's; `undefined` for events that the states and the summary include. Called in the host, since an
 * error loses its code when it is sent to another process.
 */
export function demoEvent(event: MigrationEvent): DemoEvent | undefined {
  switch (event.type) {
    case 'status': {
      const { state, progress, attempt } = event.status;
      return { event: 'status', state, round: progress.round, attempt };
    }
    case 'connect-failed':
      return { event: 'connect-failed', attempt: event.attempt, ...codeAndMessage(event.reason) };
    case 'switchover-start':
      return { event: 'switchover-start', attempt: event.attempt, limitMs: event.limitMs };
    case 'went-back': {
      const { attempt, term, elapsedMs, limitMs, reason } = event;
      return { event: 'went-back', attempt, term, elapsedMs, limitMs, ...codeAndMessage(reason) };
    }
    case 'not-prepared':
    case 'prepared':
      return { event: event.type, waitedMs: event.waitedMs };
    case 'downtime-exceeded': {
      const { limitMs, downtimeMs, term } = event;
      return { event: 'downtime-exceeded', limitMs, downtimeMs, term };
    }
    case 'limit-unreachable':
      return { event: 'limit-unreachable', limitMs: event.limitMs, fixedMs: event.fixedMs };
    case 'throttle': {
      const { type, ...throttle } = event;
      return { event: type, ...throttle };
    }
    case 'bandwidth': {
      const { type, ...bandwidth } = event;
      return { event: type, ...bandwidth };
    }
    case 'failed':
      return { event: 'migration-failed', ...codeAndMessage(event.error) };
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
      return { event: 'warning', ...codeAndMessage(event.reason) };
    case 'ownership':
    case 'reconnected':
    case 'completed':
    case 'dry-run':
    case 'shadow':
    case 'protection':
    // The demo's guest has no balloon.
    case 'free-pages':
      return undefined;
  }
}

function codeAndMessage({ code, message }: GodwitError): { readonly code: ErrorCode; readonly message: string } {
  return { code, message };
}
