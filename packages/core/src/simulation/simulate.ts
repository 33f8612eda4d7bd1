import { checkOptions } from '../argument.js';
import { FINE } from './granularity.js';
import { RUN_OPTIONS, type RunOptions, runScenario, type SimulatedRun } from './run-scenario.js';
import type { Scenario } from './scenario.js';
import { type Suggestion, suggest } from './suggest.js';

export interface SimulateOptions extends RunOptions {
  /** Whether to look for what would make a migration converge that does not: some dozen simulations more. Default true. */
  readonly suggestions?: boolean;
}

/** A simulated migration, and what would have made it converge. */
export interface Simulation extends SimulatedRun {
  /** Changes of which each alone makes the migration converge; empty when it does, or when none was found or looked for. */
  readonly wouldConverge: readonly Suggestion[];
}

/**
 * Simulates a migration: the engine itself, `migrate` and `receive`, under a virtual clock, with a guest, hosts and a link of which
 * only the numbers exist. No guest memory is allocated, and hours pass in seconds.
 *
 * The same scenario, options and seed give the same result, to the last bit, on every machine.
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT for a scenario or an option that cannot be, with the reason. A migration that fails is a
 *   result: `outcome`, `error`
 *
 * @example
 * const { converged, totalMs, downtimeMs, wouldConverge } = await simulate(
 *   {
 *     memory: { bytes: 512 * 2 ** 30 },
 *     workload: { kind: 'uniform', rate: 4e9, bytes: 40 * 2 ** 30 },
 *     link: { bytesPerSecond: 25e9 / 8 },
 *   },
 *   { downtimeLimitMs: 300 },
 * );
 * if (!converged) console.log(wouldConverge.map(({ text }) => text)); // [ 'a link of 45 Gbit/s', ... ]
 */
export async function simulate(scenario: Scenario, options: SimulateOptions = {}): Promise<Simulation> {
  checkOptions<SimulateOptions>('simulate', options, { ...RUN_OPTIONS, suggestions: true });
  const { suggestions = true, ...run } = options;
  const simulated = await runScenario(scenario, run, FINE);
  const wouldConverge = simulated.converged || !suggestions ? [] : await suggest(scenario, run);
  return { ...simulated, wouldConverge };
}
