import { nonNegative } from '../argument.js';
import { type Clock, systemClock } from '../clock.js';
import { type ConvergencePolicy, withinDowntimeLimit } from '../convergence/policy.js';
import { checkEncodings } from '../encoding/check-encodings.js';
import type { PageEncoding } from '../encoding/page-encoding.js';
import { GodwitError } from '../errors.js';
import { HANDSHAKE_TIMEOUT_MS } from '../link/migration-link.js';
import { localAuthority, type OwnershipAuthority } from '../ownership/ownership-authority.js';
import { MAXIMUM_PAGE_CHANNELS } from '../protocol/negotiate.js';
import type { DowntimeTerms } from '../round-record.js';
import { type KeepaliveOptions, type KeepaliveTimes, keepaliveTimes } from '../session/keepalive.js';

/** What may be changed while a migration runs. */
export interface AdjustableOptions {
  /** Switch over when the guest is expected to be down for no longer than this. Milliseconds; default 300. */
  readonly downtimeLimitMs?: number;
  /** Wire bytes per second while the guest runs; 0 (the default) is no limit. Lifted once the guest is paused. */
  readonly bandwidthLimit?: number;
}

export interface MigrateOptions extends AdjustableOptions, KeepaliveOptions {
  /** The embedder's own description of the VM, handed to the destination's `prepare`: anything MessagePack can carry. */
  readonly description?: unknown;
  /** Stop in `pre-switchover`, with the guest paused, until `proceed` is called. Default false. */
  readonly pauseBeforeSwitchover?: boolean;
  /** With `pauseBeforeSwitchover`: how long `proceed` is waited for before the guest runs on here. Milliseconds; default 0: for ever. */
  readonly preSwitchoverTimeoutMs?: number;
  /** Compare the RAM of both sides, page by page, before the destination may run. Default false. */
  readonly verify?: boolean;
  /**
   * How long that comparison may take before the guest runs on here. Milliseconds; 0: for ever. Default: a minute, and a second for
   * each 64 MiB of RAM.
   */
  readonly verifyTimeoutMs?: number;
  /**
   * Ask the destination, and everything that could keep the VM here, whether the migration could be made; no page moves. The
   * destination builds the VM and abandons it. Default false.
   */
  readonly dryRun?: boolean;
  /** Pause the guest for as long as it takes: no `pauseLimitMs`, and no wait for the destination's readiness. Default false. */
  readonly force?: boolean;
  /**
   * The bound: most milliseconds from the return of `pause` to `go`, whatever hangs. Past it the guest runs on here, and pre-copy
   * goes on. Default: twice `downtimeLimitMs`, and at least 500. `pre-switchover` and `verify` stop its clock.
   */
  readonly pauseLimitMs?: number;
  /**
   * How long a switchover waits, with the guest running, for the destination to be prepared, before the event `not-prepared` says
   * so. The policy sees the time, and decides. Milliseconds; default 10,000.
   */
  readonly readinessTimeoutMs?: number;
  /** Who decides whose the guest is. Default: the two sides, by `go`. */
  readonly authority?: OwnershipAuthority;
  /**
   * Send a checksum (CRC-32) with every frame, in both directions and on every stream, so that a byte which is changed on
   * its way counts as a lost link, and is sent again. Costs a copy of every page. Default false.
   */
  readonly checksum?: boolean;
  /** Streams for pages beside the control stream; 0 (the default) sends pages on the control stream. At most 64. */
  readonly pageChannels?: number;
  /**
   * Ways to say what is in a page with fewer bytes, used where they pay: `[delta(), zstd()]`. Default: none. All that the
   * destination has too are used.
   */
  readonly encodings?: readonly PageEncoding[];
  /**
   * What to do about an encoding that the destination does not have: `refuse` (the default) to migrate, with
   * `GODWIT_UNSUPPORTED`, or `warn` and do without.
   */
  readonly missingEncoding?: 'refuse' | 'warn';
  /** False to use the encodings whatever they cost, on a link that is faster than they are too. Default true. */
  readonly adaptiveEncodings?: boolean;
  /** When to switch over or give up. Default: `withinDowntimeLimit`. */
  readonly policy?: ConvergencePolicy;
  /** Downtime terms of an earlier migration from this host, for the first prediction. */
  readonly prior?: Partial<DowntimeTerms>;
  /** Cancels the migration when it aborts. */
  readonly signal?: AbortSignal;
  /**
   * How long the first connection is tried for, each refusal being told by the event `connect-failed`; and how long each attempt to
   * make one again may take. Milliseconds; default 10,000.
   */
  readonly connectTimeoutMs?: number;
  /**
   * From our `hello` to the destination's answer, its `prepare` included, on each connection. Milliseconds; default
   * 30,000.
   */
  readonly handshakeTimeoutMs?: number;
  /**
   * How long a lost link is made anew, in every phase before `go`, before the migration fails with `GODWIT_LINK_LOST`; and,
   * where it failed with the guest paused, how long the destination is looked for to tell it so. Milliseconds; default
   * 30,000. With 0 a lost link fails at once and nobody is told.
   */
  readonly reconnectTimeoutMs?: number;
  /**
   * After `go`: how long the destination is asked over new links whether it runs the guest, before the migration ends
   * with `GODWIT_OWNERSHIP_UNKNOWN`. Milliseconds; default 30,000. With 0 it ends so at once.
   */
  readonly settleTimeoutMs?: number;
  /**
   * How long the destination may take to answer `ready`, from when it has read everything, where nothing else bounds it (`force`);
   * to start the guest and answer `running`; and the authority to answer. Milliseconds each; default 30,000. In the first case the
   * guest runs on at the source, in the second the link counts as lost, and the destination is asked over a new one
   * (`settleTimeoutMs`).
   */
  readonly switchoverTimeoutMs?: number;
  /** Milliseconds between `progress` events; default 100; 0 for none. */
  readonly progressIntervalMs?: number;
  /** Default: the machine's own clock. */
  readonly clock?: Clock;
  /** Numbers from 0 to below 1, for the jitter between attempts to connect again. Default: `Math.random`. */
  readonly random?: () => number;
  /** 32 hex digits; default: random. */
  readonly migrationId?: string;
}

export interface ResolvedOptions extends KeepaliveTimes {
  downtimeLimitMs: number;
  bandwidthLimit: number;
  readonly description: unknown;
  readonly pauseBeforeSwitchover: boolean;
  readonly preSwitchoverTimeoutMs: number;
  readonly verify: boolean;
  readonly verifyTimeoutMs: number | undefined;
  readonly dryRun: boolean;
  readonly force: boolean;
  readonly pauseLimitMs: number | undefined;
  readonly readinessTimeoutMs: number;
  readonly authority: OwnershipAuthority;
  readonly checksum: boolean;
  readonly pageChannels: number;
  readonly encodings: readonly PageEncoding[];
  readonly missingEncoding: 'refuse' | 'warn';
  readonly adaptiveEncodings: boolean;
  readonly policy: ConvergencePolicy;
  readonly prior: Partial<DowntimeTerms>;
  readonly connectTimeoutMs: number;
  readonly handshakeTimeoutMs: number;
  readonly reconnectTimeoutMs: number;
  readonly settleTimeoutMs: number;
  readonly switchoverTimeoutMs: number;
  readonly progressIntervalMs: number;
  readonly clock: Clock;
  readonly random: () => number;
  readonly migrationId: string;
}

/** Fills in defaults; throws `GODWIT_INVALID_ARGUMENT` naming the option that makes no sense. */
export function resolveOptions(options: MigrateOptions): ResolvedOptions {
  const migrationId = options.migrationId ?? randomId();
  if (!/^[0-9a-f]{32}$/.test(migrationId)) {
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `migrationId must be 32 hex digits, got "${migrationId}"`);
  }
  const pageChannels = nonNegative('pageChannels', options.pageChannels ?? 0);
  if (!Number.isInteger(pageChannels) || pageChannels > MAXIMUM_PAGE_CHANNELS) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `pageChannels must be a whole number from 0 to ${MAXIMUM_PAGE_CHANNELS}, got ${pageChannels}`,
    );
  }
  return {
    downtimeLimitMs: nonNegative('downtimeLimitMs', options.downtimeLimitMs ?? 300),
    bandwidthLimit: nonNegative('bandwidthLimit', options.bandwidthLimit ?? 0),
    description: options.description,
    pauseBeforeSwitchover: options.pauseBeforeSwitchover ?? false,
    preSwitchoverTimeoutMs: nonNegative('preSwitchoverTimeoutMs', options.preSwitchoverTimeoutMs ?? 0),
    verify: options.verify ?? false,
    verifyTimeoutMs: optional('verifyTimeoutMs', options.verifyTimeoutMs),
    dryRun: options.dryRun ?? false,
    force: options.force ?? false,
    pauseLimitMs: optional('pauseLimitMs', options.pauseLimitMs),
    readinessTimeoutMs: nonNegative('readinessTimeoutMs', options.readinessTimeoutMs ?? 10_000),
    authority: options.authority ?? localAuthority,
    checksum: options.checksum ?? false,
    pageChannels,
    encodings: checkEncodings(options.encodings ?? []),
    missingEncoding: options.missingEncoding ?? 'refuse',
    adaptiveEncodings: options.adaptiveEncodings ?? true,
    policy: options.policy ?? withinDowntimeLimit,
    prior: options.prior ?? {},
    connectTimeoutMs: nonNegative('connectTimeoutMs', options.connectTimeoutMs ?? 10_000),
    handshakeTimeoutMs: nonNegative('handshakeTimeoutMs', options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS),
    reconnectTimeoutMs: nonNegative('reconnectTimeoutMs', options.reconnectTimeoutMs ?? 30_000),
    settleTimeoutMs: nonNegative('settleTimeoutMs', options.settleTimeoutMs ?? 30_000),
    switchoverTimeoutMs: nonNegative('switchoverTimeoutMs', options.switchoverTimeoutMs ?? 30_000),
    ...keepaliveTimes(options),
    progressIntervalMs: nonNegative('progressIntervalMs', options.progressIntervalMs ?? 100),
    clock: options.clock ?? systemClock,
    random: options.random ?? Math.random,
    migrationId,
  };
}

/** The bound of a stop-and-copy, in milliseconds. */
export function pauseLimitOf({ pauseLimitMs, downtimeLimitMs }: ResolvedOptions): number {
  return pauseLimitMs ?? Math.max(2 * downtimeLimitMs, 500);
}

function optional(name: string, value: number | undefined): number | undefined {
  return value === undefined ? undefined : nonNegative(name, value);
}

/** 32 hex digits: cryptographic ones, unless `random` gives numbers from 0 to below 1. */
export function randomId(random?: () => number): string {
  const bytes = random === undefined ? crypto.getRandomValues(new Uint8Array(16)) : new Uint8Array(16);
  if (random !== undefined) for (let i = 0; i < bytes.length; i++) bytes[i] = Math.floor(random() * 256);
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
