import { withinDowntimeLimit } from '../convergence/policies/downtime-limit.js';
import { receive } from '../destination/incoming-migration.js';
import { GodwitError } from '../errors.js';
import type { MigrationSummary } from '../migration-event.js';
import type { RoundRecord } from '../round-record.js';
import { Migration } from '../source/migration.js';
import { type MigrateOptions, randomId } from '../source/options.js';
import type { Fineness } from './granularity.js';
import { Observed, type OwedAt, type SimulatedPause } from './observed.js';
import type { Scenario } from './scenario.js';
import type { SimulatedPostcopy } from './simulated-faults.js';
import { Stagnation } from './stagnation.js';
import { buildWorld } from './world.js';

/** The options of `migrate` that a simulation takes too. */
export type SimulatedMigrateOptions = Pick<
  MigrateOptions,
  | 'downtimeLimitMs'
  | 'bandwidthLimit'
  | 'timeBudgetMs'
  | 'policy'
  | 'hotPagesLast'
  | 'postcopy'
  | 'postcopyBandwidth'
  | 'prior'
  | 'force'
  | 'pauseLimitMs'
  | 'readinessTimeoutMs'
  | 'reconnectTimeoutMs'
>;

export interface RunOptions extends SimulatedMigrateOptions {
  /** The seed of all random numbers: a whole number. Default 1. */
  readonly seed?: number;
  /**
   * Bytes of a page of the simulation: a power of two from the guest's page on. Default: the guest's page for up to 8 GiB; more for a
   * larger guest, where this does not change the result (docs/simulate.md).
   */
  readonly granularity?: number;
  /**
   * The simulation ends after this much simulated time, and the migration then counts as not ending. Milliseconds; default: a minute
   * and six times the time to send all memory once, and at least twice the time budget. With the policy `withinDowntimeLimit`, which
   * would go on for ever, the simulation also ends once rounds have not lowered the downtime for some time (`Stagnation`).
   */
  readonly stopAfterMs?: number;
  /** The vCPUs are held back by this fraction from the start on, until a policy changes it. Default 0. */
  readonly throttle?: number;
  /** Ends the simulation, which rejects with the signal's reason. */
  readonly signal?: AbortSignal;
}

export const RUN_OPTIONS: Readonly<Record<keyof RunOptions, true>> = {
  downtimeLimitMs: true,
  bandwidthLimit: true,
  timeBudgetMs: true,
  policy: true,
  hotPagesLast: true,
  postcopy: true,
  postcopyBandwidth: true,
  prior: true,
  force: true,
  pauseLimitMs: true,
  readinessTimeoutMs: true,
  reconnectTimeoutMs: true,
  seed: true,
  granularity: true,
  stopAfterMs: true,
  throttle: true,
  signal: true,
};

/**
 * `converged`: the guest was moved, and was down for at most 1.1 times the downtime limit. `moved`: the guest was moved and was down
 * for longer. `failed`: the migration gave up, or an error ended it. `stopped`: the simulation ended before the migration.
 */
export type SimulatedOutcome = 'converged' | 'moved' | 'failed' | 'stopped';

/**
 * One simulated migration. Times are milliseconds since its start. The result depends only on the scenario, the options and the seed.
 */
export interface SimulatedRun {
  readonly outcome: SimulatedOutcome;
  readonly converged: boolean;
  readonly seed: number;
  /** Bytes of a page in `rounds` and `summary`. */
  readonly pageSize: number;
  readonly downtimeLimitMs: number;
  /**
   * The time until the guest ran at the destination and no page was missing there, or until the migration or the simulation had
   * ended.
   */
  readonly totalMs: number;
  /** The downtime that the guest saw; `undefined` unless the guest was moved. */
  readonly downtimeMs: number | undefined;
  readonly rounds: readonly RoundRecord[];
  readonly summary: MigrationSummary | undefined;
  readonly error: { readonly code: string; readonly message: string } | undefined;
  readonly warnings: readonly string[];
  readonly owed: readonly OwedAt[];
  /** The throttle from each moment on. */
  readonly throttle: readonly { readonly ms: number; readonly fraction: number }[];
  readonly pauses: readonly SimulatedPause[];
  /** The guest's page faults at the destination while pages were missing there; `undefined` if none was missing. */
  readonly postcopy: SimulatedPostcopy | undefined;
  /** Batches of pages that were sent: the cost of the simulation grows with their number, and with that of the dirty pages. */
  readonly batches: number;
  /** Bytes of RAM that the guest has made dirty, by all harvests together. */
  readonly dirtiedBytes: number;
}

/** The share of the limit by which the downtime may exceed it and still count as converged, since predictions are no more exact. */
const FORGIVEN = 0.1;

/** Runs one migration of a scenario. */
export async function runScenario(scenario: Scenario, options: RunOptions, fineness: Fineness): Promise<SimulatedRun> {
  const { seed = 1, downtimeLimitMs = 300, granularity, throttle = 0, signal } = options;
  signal?.throwIfAborted();
  const world = buildWorld(scenario, { seed, downtimeLimitMs, granularity, fineness });
  const { clock, guest, link, over } = world;
  const random = () => world.random.fraction();
  const incoming = receive(link.listener, {
    prepare: world.destination,
    maximumDeviceState: 2 ** 28 + 2 * world.deviceBytes,
    progressIntervalMs: 0,
    ...(options.postcopy === true && { faults: world.faults }),
    ...{ clock, random },
  });
  const migration = new Migration(guest, link.connector, {
    ...picked(options),
    pageChannels: world.channels,
    progressIntervalMs: 0,
    migrationId: randomId(random),
    ...{ downtimeLimitMs, clock, random },
  });
  const observed = new Observed(clock, world.pageSize);
  let stopped = false;
  const stop = (why: string) => {
    stopped = true;
    end(why);
  };
  const stagnation =
    options.policy === withinDowntimeLimit && world.steady ? new Stagnation(downtimeLimitMs) : undefined;
  migration.subscribe((event) => {
    observed.take(event);
    if (event.type === 'round' && stagnation?.after(event.round) === true) stop(stagnation.why);
  });
  if (throttle > 0) guest.throttle?.(throttle);
  let abandon: (reason: GodwitError) => void = () => {};
  const abandoned = new Promise<never>((_, reject) => {
    abandon = reject;
  });
  const end = (why: string) => {
    const cancelled = migration.cancel(why);
    incoming.cancel(why);
    // A migration in post-copy cannot go back to pre-copy: without this call its source would try to reconnect for ever.
    if (!cancelled && incoming.giveUpPages(why)) abandon(new GodwitError('GODWIT_PAGES_MISSING', why));
  };
  const onAbort = () => end('the simulation was aborted');
  signal?.addEventListener('abort', onAbort, { once: true });
  const stopAfterMs = options.stopAfterMs ?? Math.max(world.patienceMs, 2 * (options.timeBudgetMs ?? 0));
  clock.sleep(stopAfterMs, over.signal).then(
    () => stop(`it has not ended within ${stopAfterMs.toFixed(0)} ms of simulated time`),
    () => {},
  );
  const ended = Promise.allSettled([
    migration.result.finally(() => {
      if (migration.state !== 'completed') incoming.cancel('the migration has ended');
    }),
    incoming.result,
  ]).then(() => migration.result);
  const [sent] = await Promise.allSettled([Promise.race([ended, abandoned])]);
  const totalMs = sent.status === 'fulfilled' ? sent.value.totalMs : clock.now();
  over.abort();
  clock.stop();
  signal?.removeEventListener('abort', onAbort);
  signal?.throwIfAborted();
  const summary = sent.status === 'fulfilled' ? sent.value : undefined;
  const error = sent.status === 'rejected' ? (sent.reason as GodwitError) : undefined;
  if (error?.code === 'GODWIT_INVALID_ARGUMENT' || error?.code === 'GODWIT_INTERNAL') throw error;
  const outcome = outcomeOf(summary, downtimeLimitMs, stopped);
  const postcopy = world.faults.report;
  return {
    ...{ outcome, converged: outcome === 'converged', seed, pageSize: world.pageSize, downtimeLimitMs, totalMs },
    downtimeMs: summary?.downtimeMs,
    rounds: observed.rounds,
    summary,
    error: error && { code: error.code, message: error.message },
    warnings: observed.warnings,
    owed: [...observed.owed, ...owedAfter(postcopy)],
    throttle: world.throttle,
    pauses: observed.pauses(postcopy?.fromMs ?? totalMs),
    postcopy,
    batches: world.kinds.batches,
    dirtiedBytes: guest.harvestedPages * world.pageSize,
  };
}

function outcomeOf(summary: MigrationSummary | undefined, limitMs: number, stopped: boolean): SimulatedOutcome {
  if (summary !== undefined) return summary.downtimeMs <= limitMs * (1 + FORGIVEN) ? 'converged' : 'moved';
  return stopped ? 'stopped' : 'failed';
}

/** The bytes that are missing in guest memory, from the moment at which the guest runs at the destination. */
function owedAfter(postcopy: SimulatedPostcopy | undefined): readonly OwedAt[] {
  if (postcopy === undefined) return [];
  const { fromMs, ms, bytes } = postcopy;
  return [
    { ms: fromMs, bytes },
    { ms: fromMs + ms, bytes: 0 },
  ];
}

/** Picks the options of `migrate`. */
function picked(options: RunOptions): SimulatedMigrateOptions {
  const { seed: _, granularity: __, stopAfterMs: ___, throttle: ____, signal: _____, ...rest } = options;
  return rest;
}
