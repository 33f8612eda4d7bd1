import { checkOptions, chosen, flag, nonNegative, oneOf } from '../argument.js';
import type { Clock } from '../clock.js';
import { type PresetName, policyOf } from '../convergence/policies/presets.js';
import type { ConvergencePolicy } from '../convergence/policy.js';
import { checkEncodings, type PageEncoding } from '../encoding/page-encoding.js';
import { GodwitError, quoted } from '../errors.js';
import { SAMPLE_MS } from '../estimate/sample-guest.js';
import { HANDSHAKE_TIMEOUT_MS } from '../link/migration-link.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { OwnershipAuthority } from '../ownership/ownership-authority.js';
import type { WriteProtection } from '../protect/write-protection.js';
import { MAXIMUM_PAGE_CHANNELS } from '../protocol/negotiate.js';
import { authorityOf, checkSignal, clockOf } from '../role-parts.js';
import type { DowntimeTerms } from '../round-record.js';
import { KEEPALIVE_OPTIONS, type KeepaliveOptions, type KeepaliveTimes, keepaliveTimes } from '../session/keepalive.js';

/** The options that may be changed while a migration runs. */
export interface AdjustableOptions {
  /** Switch over once the predicted downtime is at most this. Milliseconds; default 300. */
  readonly downtimeLimitMs?: number;
  /**
   * Most wire bytes per second while the guest runs; 0 (the default) is no limit. Not applied while the guest is paused. A policy's
   * decision `bandwidth` replaces it until `adjust` sets another limit.
   */
  readonly bandwidthLimit?: number;
  /**
   * The limit in place of `bandwidthLimit` while the guest runs at the destination and pages are missing there (`postcopy`); pages that
   * were requested there are not counted. Wire bytes per second; 0 (the default) is no limit.
   */
  readonly postcopyBandwidth?: number;
}

export interface MigrateOptions extends AdjustableOptions, KeepaliveOptions {
  /** The embedder's own description of the VM, passed to the destination's `prepare`: any value that MessagePack can encode. */
  readonly description?: unknown;
  /** Wait in `pre-switchover`, with the guest paused, until `proceed` is called. Default false. */
  readonly pauseBeforeSwitchover?: boolean;
  /**
   * With `pauseBeforeSwitchover`: how long to wait for `proceed` before the guest runs on at the source and pre-copy goes on.
   * Milliseconds; default 0: no limit.
   */
  readonly preSwitchoverTimeoutMs?: number;
  /**
   * Compare the RAM of both sides, page by page, before the destination may run; shared blocks are left out. Default false.
   */
  readonly verify?: boolean;
  /**
   * How long the comparison of `verify` may take before the guest runs on at the source and pre-copy goes on. Milliseconds; 0: no
   * limit. Default: a minute, and a second for each 64 MiB of RAM.
   */
  readonly verifyTimeoutMs?: number;
  /**
   * Only find out whether the migration is possible: ask the VM's devices and the destination. No page moves; the destination builds
   * the VM and abandons it. The event `dry-run` and the summary have the report. Default false.
   */
  readonly dryRun?: boolean;
  /** Pause the guest for as long as it takes: no `pauseLimitMs`, and no wait for the destination's readiness. Default false. */
  readonly force?: boolean;
  /**
   * The bound on the pause: most milliseconds from the return of `pause` to `go`, whichever step hangs. Past it the guest runs on at
   * the source and pre-copy goes on. Default: twice `downtimeLimitMs`, and at least 500. Time in `pre-switchover` and `verify` does
   * not count.
   */
  readonly pauseLimitMs?: number;
  /**
   * How long a switchover waits, with the guest running, for the destination to be prepared, before the event `not-prepared` is emitted.
   * The wait goes on; the policy gets its length (`PolicyInput.unpreparedMs`) and decides. Milliseconds; default 10,000.
   */
  readonly readinessTimeoutMs?: number;
  /** Decides which side owns the guest. Default: `localAuthority`, with which the destination owns the guest once `go` was sent. */
  readonly authority?: OwnershipAuthority;
  /**
   * Send a checksum (CRC-32) with every frame, in both directions and on every stream: a changed byte then counts as a lost link,
   * and its frame is sent again. Costs a copy of every page. Default false.
   */
  readonly checksum?: boolean;
  /**
   * Streams for pages beside the control stream, at most 64; 0 sends pages on the control stream. Default `'auto'`: as many as the
   * connector chooses for this host and this memory (`LinkConnector.pageChannelsFor`; `onWorkers` of `@godwit/workers` chooses one or two,
   * on threads of their own, and a snapshot's file four), and 0 with any other connector.
   */
  readonly pageChannels?: number | 'auto';
  /**
   * Encodings that send a page in fewer bytes, each used where it pays: `[delta(), zstd()]`. Those that the destination also has are
   * used. Default: none.
   */
  readonly encodings?: readonly PageEncoding[];
  /**
   * What to do about an encoding that the destination does not have: `refuse` (the default) fails the migration with
   * `GODWIT_UNSUPPORTED`; `warn` emits a `warning` and does not use it.
   */
  readonly missingEncoding?: 'refuse' | 'warn';
  /** False to use the encodings always, even when the link is faster than they are. Default true. */
  readonly adaptiveEncodings?: boolean;
  /**
   * Leave pages that the guest has dirtied in each of the last three rounds for later: these pages stay owed until a round passes in which
   * the guest has not dirtied them, or the guest is paused. With `encodings` no page is left for later, since a page that is sent again is
   * small. The option saves wire bytes where part of the working set is written all the time. It makes rounds shorter, so that the patience
   * of `balanced` and other policies that count rounds ends sooner. Default false.
   */
  readonly hotPagesLast?: boolean;
  /**
   * The pages that the guest needs first, such as what `AccessTracker` of `@godwit/linux` has sampled. After a switchover by post-copy they
   * are sent before the others; a snapshot notes them, and a restore that runs at once loads them first. They must not change until the
   * migration has ended. Without `postcopy` and with a link to no file nothing has an order of pages: the migration is then refused with
   * `GODWIT_UNSUPPORTED` before a page moves. Default: pages go in the order of their addresses.
   */
  readonly workingSet?: DirtyBitmaps;
  /**
   * How long the guest may take, before round 1, to name the pages that it has freed (`MigratableVm.freePages`); the pages that it has named
   * by then are not sent. Milliseconds; default 1,000. With 0 it is not asked.
   */
  readonly freePagesTimeoutMs?: number;
  /**
   * Time for the whole migration, in milliseconds, which policies use: the presets end with it, `gentle` and `balanced` by giving up,
   * `urgent` by force. Default: that of the preset.
   */
  readonly timeBudgetMs?: number;
  /**
   * Allow post-copy: `startPostcopy()`, or a policy that decides `postcopy`, lets the guest run at the destination before its memory is
   * there; pages that the guest touches are fetched at once over a separate stream, and the rest follows. From then until the last page has
   * come **both processes are needed**: if one dies, the guest or everything that it has done since is lost. Requires `receive({ faults })`
   * and memory at the destination that the fault service can serve; the migration is otherwise refused before a page moves. Cannot be
   * combined with `verify`. Default false.
   */
  readonly postcopy?: boolean;
  /**
   * Save a snapshot without stopping the guest for longer than its devices take: `writeProtection()` of `@godwit/workers` protects its
   * memory, and each page is saved as it was at the moment of the pause, before its next write. The guest then runs on **at the source**,
   * which still owns it, and `cancel` is possible until the file has its name. Requires a link to a file, no tracker, and memory that can
   * be protected; the migration is otherwise refused with `GODWIT_BLOCKED` and every reason, before anything is touched. `bandwidthLimit`
   * applies to the pages for which no write waits, and `pauseLimitMs` to the pause. Options of pre-copy and of the switchover are refused
   * (`GODWIT_INVALID_ARGUMENT`). Default: the guest is paused for the last round, and stays paused.
   */
  readonly background?: WriteProtection;
  /**
   * Decides when to switch over, whether to throttle the guest, and when and how patience ends: a function that is asked after each round
   * and every 100 ms, or the name of one of `presets`. Default: `balanced`, which gives up with `GODWIT_NOT_CONVERGING` after ten times the
   * first round, and at least a minute, unless the migration ends before that.
   */
  readonly policy?: ConvergencePolicy | PresetName;
  /**
   * Policies that only watch, by names of your choice: each is asked whenever `policy` is, with the same input, and the event `shadow` and
   * the summary say when it would have switched over, and with which downtime. Its decisions on throttle or bandwidth are not carried out,
   * so that its input follows from `policy` alone. A shadow policy that throws, or returns no valid decision, counts as failed and disturbs
   * nothing. Default: none.
   */
  readonly shadows?: Readonly<Record<string, ConvergencePolicy | PresetName>>;
  /** Downtime terms of an earlier migration from this host, for the first prediction. */
  readonly prior?: Partial<DowntimeTerms>;
  /**
   * Refuses the migration with `GODWIT_ESTIMATE_EXCEEDED` before its first page moves, where the estimate exceeds a limit or is that the
   * migration would not converge. For `sampleMs` (default 3,000) the guest is watched, and the link is measured with a few MiB: see
   * `estimate`. Milliseconds. Default: nothing is estimated.
   */
  readonly refuseAbove?: { readonly downtimeMs?: number; readonly totalMs?: number; readonly sampleMs?: number };
  /** Cancels the migration when it aborts. */
  readonly signal?: AbortSignal;
  /**
   * The time for all attempts to make the first connection (each failed one emits `connect-failed`), and for each later attempt to connect.
   * Milliseconds; default 10,000.
   */
  readonly connectTimeoutMs?: number;
  /**
   * Time limit, on each connection, from the source's `hello` to the destination's answer, its `prepare` included. Milliseconds; default
   * 30,000.
   */
  readonly handshakeTimeoutMs?: number;
  /**
   * How long to try to reconnect after a lost link, in every phase before `go`, before the migration fails with `GODWIT_LINK_LOST`.
   * After a failure with the guest paused, how long to try to reach the destination and tell it. Milliseconds; default 30,000. With 0
   * a lost link fails the migration at once, and the destination is not told.
   */
  readonly reconnectTimeoutMs?: number;
  /**
   * After `go`: how long to ask the destination over new connections whether it runs the guest, before the migration ends with
   * `GODWIT_OWNERSHIP_UNKNOWN`. Milliseconds; default 30,000. With 0 the migration ends with that error at once.
   */
  readonly settleTimeoutMs?: number;
  /**
   * Time limit, in milliseconds, for each of these; default 30,000:
   *
   * - the destination's `ready`, from when it has read everything, if the pause is not bounded (`force`): then the migration fails, and the
   *   guest runs on at the source;
   * - the destination's `running`: then the link counts as lost, and the destination is asked over a new one (`settleTimeoutMs`);
   * - an answer of the ownership authority: then the transfer is withdrawn.
   */
  readonly switchoverTimeoutMs?: number;
  /** Milliseconds between `progress` events; default 100; 0 for no such events. */
  readonly progressIntervalMs?: number;
  /** The clock of every wait and measurement. Default: `systemClock`. */
  readonly clock?: Clock;
  /** Numbers from 0 to below 1, for the jitter between attempts to connect again. Default: `Math.random`. */
  readonly random?: () => number;
  /** Names the migration on both sides: 32 hex digits, used for no other migration. Default: random. */
  readonly migrationId?: string;
}

export interface ResolvedOptions extends KeepaliveTimes {
  downtimeLimitMs: number;
  bandwidthLimit: number;
  postcopyBandwidth: number;
  readonly postcopy: boolean;
  readonly background: WriteProtection | undefined;
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
  readonly hotPagesLast: boolean;
  readonly workingSet: DirtyBitmaps | undefined;
  readonly freePagesTimeoutMs: number;
  readonly timeBudgetMs: number | undefined;
  readonly policy: ConvergencePolicy;
  readonly shadows: Readonly<Record<string, ConvergencePolicy>>;
  readonly prior: Partial<DowntimeTerms>;
  readonly refuseAbove:
    | { readonly downtimeMs: number | undefined; readonly totalMs: number | undefined; readonly sampleMs: number }
    | undefined;
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

const ADJUSTABLE_OPTIONS: Readonly<Record<keyof AdjustableOptions, true>> = {
  downtimeLimitMs: true,
  bandwidthLimit: true,
  postcopyBandwidth: true,
};

const MIGRATE_OPTIONS: Readonly<Record<keyof MigrateOptions, true>> = {
  ...ADJUSTABLE_OPTIONS,
  ...KEEPALIVE_OPTIONS,
  description: true,
  pauseBeforeSwitchover: true,
  preSwitchoverTimeoutMs: true,
  verify: true,
  verifyTimeoutMs: true,
  dryRun: true,
  force: true,
  pauseLimitMs: true,
  readinessTimeoutMs: true,
  authority: true,
  checksum: true,
  pageChannels: true,
  encodings: true,
  missingEncoding: true,
  adaptiveEncodings: true,
  postcopy: true,
  background: true,
  hotPagesLast: true,
  workingSet: true,
  freePagesTimeoutMs: true,
  timeBudgetMs: true,
  policy: true,
  shadows: true,
  prior: true,
  refuseAbove: true,
  signal: true,
  connectTimeoutMs: true,
  handshakeTimeoutMs: true,
  reconnectTimeoutMs: true,
  settleTimeoutMs: true,
  switchoverTimeoutMs: true,
  progressIntervalMs: true,
  clock: true,
  random: true,
  migrationId: true,
};

const PRIOR: Readonly<Record<keyof DowntimeTerms, true>> = {
  pauseMs: true,
  harvestMs: true,
  ramMs: true,
  deviceMs: true,
  loadMs: true,
  roundTripMs: true,
  resumeMs: true,
};

/** Throws `GODWIT_INVALID_ARGUMENT` unless all of these options can be changed and have possible values. */
export function checkAdjustable(options: AdjustableOptions): void {
  checkOptions<AdjustableOptions>('adjust', options, ADJUSTABLE_OPTIONS);
  optional('downtimeLimitMs', options.downtimeLimitMs);
  optional('bandwidthLimit', options.bandwidthLimit);
  optional('postcopyBandwidth', options.postcopyBandwidth);
}

/**
 * Fills in defaults (`auto` returns the number of page channels where the connector chooses it); throws `GODWIT_INVALID_ARGUMENT`, which
 * names the option, for an impossible value.
 */
export function resolveOptions(options: MigrateOptions, auto: () => number = () => 0): ResolvedOptions {
  checkOptions<MigrateOptions>('migrate', options, MIGRATE_OPTIONS);
  const migrationId = options.migrationId ?? randomId();
  if (!/^[0-9a-f]{32}$/.test(migrationId)) {
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `migrationId must be 32 hex digits, got ${chosen(migrationId)}`);
  }
  const { pageChannels: asked = 'auto' } = options;
  const pageChannels = asked === 'auto' ? auto() : asked;
  if (!Number.isInteger(pageChannels) || pageChannels < 0 || pageChannels > MAXIMUM_PAGE_CHANNELS) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `pageChannels must be 'auto' or a whole number from 0 to ${MAXIMUM_PAGE_CHANNELS}, got ${quoted(pageChannels)}`,
    );
  }
  if (options.policy === 'hybrid' && !options.postcopy) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      'the policy "hybrid" goes on as post-copy, which takes postcopy: true',
    );
  }
  if (options.postcopy && options.verify) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      'verify compares all memory before the guest runs at the destination, and with postcopy it runs there before its memory has come: ' +
        'take one of the two',
    );
  }
  checkSignal(options.signal);
  return {
    downtimeLimitMs: nonNegative('downtimeLimitMs', options.downtimeLimitMs ?? 300),
    bandwidthLimit: nonNegative('bandwidthLimit', options.bandwidthLimit ?? 0),
    postcopyBandwidth: nonNegative('postcopyBandwidth', options.postcopyBandwidth ?? 0),
    postcopy: flag('postcopy', options.postcopy, false),
    background: checkBackground(options),
    description: options.description,
    pauseBeforeSwitchover: flag('pauseBeforeSwitchover', options.pauseBeforeSwitchover, false),
    preSwitchoverTimeoutMs: nonNegative('preSwitchoverTimeoutMs', options.preSwitchoverTimeoutMs ?? 0),
    verify: flag('verify', options.verify, false),
    verifyTimeoutMs: optional('verifyTimeoutMs', options.verifyTimeoutMs),
    dryRun: flag('dryRun', options.dryRun, false),
    force: flag('force', options.force, false),
    pauseLimitMs: optional('pauseLimitMs', options.pauseLimitMs),
    readinessTimeoutMs: nonNegative('readinessTimeoutMs', options.readinessTimeoutMs ?? 10_000),
    authority: authorityOf(options.authority),
    checksum: flag('checksum', options.checksum, false),
    pageChannels,
    encodings: checkEncodings(options.encodings ?? []),
    missingEncoding: oneOf('missingEncoding', options.missingEncoding ?? 'refuse', ['refuse', 'warn']),
    adaptiveEncodings: flag('adaptiveEncodings', options.adaptiveEncodings, true),
    hotPagesLast: flag('hotPagesLast', options.hotPagesLast, false),
    workingSet: checkWorkingSet(options.workingSet),
    freePagesTimeoutMs: nonNegative('freePagesTimeoutMs', options.freePagesTimeoutMs ?? 1000),
    timeBudgetMs: optional('timeBudgetMs', options.timeBudgetMs),
    policy: policyOf(options.policy ?? 'balanced'),
    shadows: checkShadows(options.shadows ?? {}),
    prior: checkPrior(options.prior),
    refuseAbove: options.refuseAbove && resolveRefuseAbove(options.refuseAbove),
    connectTimeoutMs: nonNegative('connectTimeoutMs', options.connectTimeoutMs ?? 10_000),
    handshakeTimeoutMs: nonNegative('handshakeTimeoutMs', options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS),
    reconnectTimeoutMs: nonNegative('reconnectTimeoutMs', options.reconnectTimeoutMs ?? 30_000),
    settleTimeoutMs: nonNegative('settleTimeoutMs', options.settleTimeoutMs ?? 30_000),
    switchoverTimeoutMs: nonNegative('switchoverTimeoutMs', options.switchoverTimeoutMs ?? 30_000),
    ...keepaliveTimes(options),
    progressIntervalMs: nonNegative('progressIntervalMs', options.progressIntervalMs ?? 100),
    clock: clockOf(options.clock),
    random: options.random ?? Math.random,
    migrationId,
  };
}

/** Options that have no effect on a background snapshot, which has no rounds, no decision and no destination that takes over the guest. */
const NOT_IN_BACKGROUND = [
  ...(['policy', 'shadows', 'timeBudgetMs', 'refuseAbove', 'hotPagesLast', 'encodings', 'prior'] as const),
  ...(['postcopy', 'verify', 'force', 'pauseBeforeSwitchover', 'authority'] as const),
] satisfies readonly (keyof MigrateOptions)[];

function checkBackground(options: MigrateOptions): WriteProtection | undefined {
  const { background } = options;
  if (background === undefined) return undefined;
  const without = NOT_IN_BACKGROUND.filter((name) => options[name] !== undefined && options[name] !== false);
  if (typeof background?.protect === 'function' && without.length === 0) return background;
  throw new GodwitError(
    'GODWIT_INVALID_ARGUMENT',
    without.length > 0
      ? `a background snapshot takes no ${without.join(', ')}: leave that out, or leave background out`
      : `background must be what writeProtection() of @godwit/workers returns, got ${quoted(background)}`,
  );
}

function checkWorkingSet(pages: MigrateOptions['workingSet']): DirtyBitmaps | undefined {
  if (pages === undefined || pages instanceof DirtyBitmaps) return pages;
  throw new GodwitError(
    'GODWIT_INVALID_ARGUMENT',
    `workingSet must be DirtyBitmaps of the VM's memory, got ${quoted(pages)}`,
  );
}

function resolveRefuseAbove(limits: NonNullable<MigrateOptions['refuseAbove']>) {
  checkOptions<typeof limits>('refuseAbove', limits, { downtimeMs: true, totalMs: true, sampleMs: true });
  return {
    downtimeMs: optional('refuseAbove.downtimeMs', limits.downtimeMs),
    totalMs: optional('refuseAbove.totalMs', limits.totalMs),
    sampleMs: nonNegative('refuseAbove.sampleMs', limits.sampleMs ?? SAMPLE_MS),
  };
}

function checkShadows(shadows: unknown): Readonly<Record<string, ConvergencePolicy>> {
  if (typeof shadows !== 'object' || shadows === null) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `shadows must be an object that has policies by name, got ${quoted(shadows)}`,
    );
  }
  const checked = Object.entries(shadows).map(([name, policy]) => [name, policyOf(policy, `shadows.${name}`)]);
  return Object.fromEntries(checked);
}

function checkPrior(prior: Partial<DowntimeTerms> = {}): Partial<DowntimeTerms> {
  checkOptions<Partial<DowntimeTerms>>('prior', prior, PRIOR);
  for (const [term, ms] of Object.entries(prior)) optional(`prior.${term}`, ms);
  return prior;
}

function optional(name: string, value: number | undefined): number | undefined {
  return value === undefined ? undefined : nonNegative(name, value);
}

/** Returns 32 random hex digits: from `random`, which returns numbers from 0 to below 1, or else from the platform's cryptography. */
export function randomId(random?: () => number): string {
  const bytes = random === undefined ? crypto.getRandomValues(new Uint8Array(16)) : new Uint8Array(16);
  if (random !== undefined) for (let i = 0; i < bytes.length; i++) bytes[i] = Math.floor(random() * 256);
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
