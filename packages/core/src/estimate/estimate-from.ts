import type { PresetName } from '../convergence/policies/presets.js';
import type { ConvergencePolicy } from '../convergence/policy.js';
import type { DeviceScenario, LinkScenario, Scenario } from '../simulation/scenario.js';
import { type SimulateOptions, type Simulation, simulate } from '../simulation/simulate.js';
import type { GuestSample } from './sample-guest.js';

/** The settings of the migration that is estimated, with the meaning and the defaults that they have in `MigrateOptions`. */
export interface EstimateSettings {
  readonly downtimeLimitMs?: number;
  readonly bandwidthLimit?: number;
  readonly timeBudgetMs?: number;
  readonly policy?: ConvergencePolicy | PresetName;
  readonly postcopy?: boolean;
  readonly pageChannels?: number;
  /**
   * Whether to search for changes with which a migration that does not converge would: this takes about a dozen more simulations, each
   * of seconds for a guest whose rounds are short. Default false.
   */
  readonly suggestions?: boolean;
  /** The seed of the simulation's random numbers. Default 1. */
  readonly seed?: number;
}

/** A number of milliseconds: the expected value, and an interval around it. */
export interface EstimatedTime {
  readonly expected: number;
  readonly low: number;
  readonly high: number;
}

/** What a migration would be like. */
export interface Estimate {
  /** Whether the migration would end with the guest at the destination. */
  readonly converges: boolean;
  /** Whether `converges` is the same for guests and links that differ from the measured ones by as much as is usual. */
  readonly certain: boolean;
  readonly totalMs: EstimatedTime;
  readonly downtimeMs: EstimatedTime;
  /** Why the migration would fail, in words. */
  readonly reason: string | undefined;
  /** Changes with which the migration would converge, in words: `a link of 45 Gbit/s`. Only with `suggestions`. */
  readonly suggestions: readonly string[];
  readonly sample: GuestSample;
  readonly link: LinkScenario;
}

/**
 * The factors by which the migrated guest may differ from the watched one: the speed of its writes, and the rate of the link. A dirty
 * rate differs by a quarter from one second to the next in steady guests; a TCP stream's rate by a tenth, and it shares its link with
 * others.
 */
const VARIATIONS = [
  { writes: 1, link: 1 },
  { writes: 1.3, link: 0.85 },
  { writes: 1.3, link: 1 },
  { writes: 1, link: 0.85 },
  { writes: 0.8, link: 1.1 },
] as const;

/** Simulates migrations of a guest that was watched, over links like this one. */
export async function estimateFrom(
  sample: GuestSample,
  devices: readonly DeviceScenario[],
  link: LinkScenario,
  given: EstimateSettings,
): Promise<Estimate> {
  const { seed = 1, pageChannels, suggestions = false, policy = 'balanced' } = given;
  const settings = settingsOf(given);
  const whole = pageChannels === undefined ? link : { ...link, channels: Math.max(1, pageChannels) };
  const runs: Simulation[] = [];
  for (const [index, variation] of VARIATIONS.entries()) {
    const options = { ...settings, policy, seed, suggestions: suggestions && index === 0 };
    runs.push(await simulate(scenarioFrom(sample, devices, whole, variation), options));
  }
  const [expected] = runs as [Simulation];
  const times = (of: (run: Simulation) => number): EstimatedTime => {
    const all = runs.map(of);
    return { expected: of(expected), low: Math.min(...all), high: Math.max(...all) };
  };
  return {
    converges: expected.converged,
    certain: runs.every(({ converged }) => converged === expected.converged),
    totalMs: times(({ totalMs }) => totalMs),
    downtimeMs: times(downtimeOf),
    reason: expected.error?.message,
    suggestions: expected.wouldConverge.map(({ text }) => text),
    sample,
    link: whole,
  };
}

/** The settings of an estimate that a simulation takes unchanged. */
function settingsOf({ downtimeLimitMs, bandwidthLimit, timeBudgetMs, postcopy }: EstimateSettings): SimulateOptions {
  return {
    ...(downtimeLimitMs !== undefined && { downtimeLimitMs }),
    ...(bandwidthLimit !== undefined && { bandwidthLimit }),
    ...(timeBudgetMs !== undefined && { timeBudgetMs }),
    ...(postcopy !== undefined && { postcopy }),
  };
}

/** The downtime of the simulated migration; without a switchover, the last predicted one. */
function downtimeOf({ downtimeMs, rounds }: Simulation): number {
  return downtimeMs ?? rounds.at(-1)?.predictedDowntimeMs ?? Number.POSITIVE_INFINITY;
}

/** The watched guest as a scenario. A guest that writes `writes` times as fast writes the same pages in shorter windows. */
export function scenarioFrom(
  { ramBytes, populatedBytes, pageSize, workingSet, harvestMs }: GuestSample,
  devices: readonly DeviceScenario[],
  link: LinkScenario,
  { writes, link: share }: { readonly writes: number; readonly link: number },
): Scenario {
  const points = workingSet.map(({ windowMs, pages }) => ({ windowMs: windowMs / writes, bytes: pages * pageSize }));
  const { changes } = link;
  return {
    memory: { bytes: ramBytes, populatedBytes, pageSize },
    workload: points.some(({ bytes }) => bytes > 0) ? { kind: 'curve', points } : { kind: 'idle' },
    link: {
      ...link,
      bytesPerSecond: link.bytesPerSecond * share,
      ...(changes === undefined ? {} : { changes: changes.map((change) => slower(change, share)) }),
    },
    devices,
    host: { harvestMs, harvestMsPerGiB: 0, harvestNsPerPage: 0 },
  };
}

function slower<T extends { readonly bytesPerSecond?: number }>(change: T, share: number): T {
  return change.bytesPerSecond === undefined ? change : { ...change, bytesPerSecond: change.bytesPerSecond * share };
}
