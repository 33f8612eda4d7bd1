import { writeFileSync } from 'node:fs';
import type { Writable } from 'node:stream';
import { GodwitError } from '@godwit/core';
import { type Simulation, simulate } from '@godwit/core/simulation';
import { ArgumentError } from '../command/argument-error.js';
import { type NamedPolicy, policiesOf } from './policies.js';
import { SIMULATE_USAGE, type SimulateRequest, simulateRequest } from './simulate-arguments.js';
import { simulationPlot } from './simulation-plot.js';
import { comparisonText, type NamedSimulation, simulationText, suggestionText } from './simulation-report.js';

/** Runs `godwit simulate` with the arguments after its name; resolves with the exit status. */
export async function runSimulate(
  argv: readonly string[],
  { stdout, stderr }: { readonly stdout: Writable; readonly stderr: Writable },
): Promise<number> {
  try {
    const request = simulateRequest(argv);
    if (request === undefined) {
      stdout.write(SIMULATE_USAGE);
      return 0;
    }
    const all = await simulateAll(request);
    const plot = request.plot === undefined ? undefined : await simulationPlot(all);
    stdout.write(request.json ? jsonOf(all) : textOf(all));
    if (plot !== undefined && request.plot !== undefined) writePlot(request.plot, plot);
    return all.every(({ simulation }) => simulation.converged) ? 0 : 1;
  } catch (error) {
    const wrong = error instanceof ArgumentError || (GodwitError.is(error) && error.code === 'GODWIT_INVALID_ARGUMENT');
    if (!wrong) throw error;
    stderr.write(`godwit: ${(error as Error).message}\nSee godwit simulate --help.\n`);
    return 2;
  }
}

async function simulateAll({ scenario, options, policies }: SimulateRequest): Promise<readonly NamedSimulation[]> {
  const { timeBudgetMs, postcopy } = options;
  const named: readonly (NamedPolicy | undefined)[] =
    policies === undefined ? [undefined] : await policiesOf(policies, { timeBudgetMs, postcopy });
  const all: NamedSimulation[] = [];
  let suggested: Simulation['wouldConverge'] | undefined;
  for (const one of named) {
    const policy = one === undefined ? {} : { policy: one.policy };
    // The suggestions do not depend on the policy, so that they are computed only once.
    const simulation = await simulate(scenario, { ...options, ...policy, suggestions: suggested === undefined });
    if (!simulation.converged) suggested ??= simulation.wouldConverge;
    const wouldConverge = simulation.converged ? [] : (suggested ?? []);
    all.push({ name: one?.name, simulation: { ...simulation, wouldConverge } });
  }
  return all;
}

function textOf(all: readonly NamedSimulation[]): string {
  const texts = all.map(simulationText);
  if (all.length > 1) texts.push(comparisonText(all));
  // The suggestions are the same for all policies.
  const unhappy = all.find(({ simulation }) => !simulation.converged);
  if (unhappy !== undefined) texts.push(suggestionText(unhappy.simulation));
  return `${texts.join('\n\n')}\n`;
}

function jsonOf(all: readonly NamedSimulation[]): string {
  const objects = all.map(({ name, simulation }) => ({ policy: name ?? 'default', ...simulation }));
  return `${JSON.stringify(objects.length === 1 ? objects[0] : objects)}\n`;
}

function writePlot(file: string, svg: string): void {
  try {
    writeFileSync(file, svg);
  } catch (error) {
    throw new ArgumentError(`the plot cannot be written to ${file}: ${(error as Error).message}`);
  }
}
