import { checkOptions } from '../argument.js';
import { FINE } from './granularity.js';
import { RUN_OPTIONS, type RunOptions, runScenario, type SimulatedRun } from './run-scenario.js';
import type { Scenario } from './scenario.js';
import { type Suggestion, suggest } from './suggest.js';

export interface SimulateOptions extends RunOptions {
  /**
   * Whether to search for changes with which a migration that does not converge would: about a dozen more simulations. Default true.
   */
  readonly suggestions?: boolean;
}

/** A simulated migration, and the changes with which it would have converged. */
export interface Simulation extends SimulatedRun {
  /**
   * Changes of which each alone makes the migration converge; empty when the migration converges anyway, or no change was found or
   * searched for.
   */
  readonly wouldConverge: readonly Suggestion[];
}

/**
 * Simulates a migration: the engine itself, `migrate` and `receive`, under a virtual clock, with a guest, hosts and a link that are
 * described by numbers only. No guest memory is allocated, and hours of a migration are simulated in seconds.
 *
 * The same scenario, options and seed give the same result, to the last bit, on every machine.
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT for an impossible scenario or option, with the reason. A migration that fails is a
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
