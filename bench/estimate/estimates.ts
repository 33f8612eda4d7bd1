import {
  type Estimate,
  estimate,
  firstOpinion,
  GodwitError,
  migrate,
  receive,
  timeBudget,
  withinDowntimeLimit,
} from '@godwit/core';
import { Machine } from '@godwit/example-node-vmm';
import { connectTo, listenOn, tcp } from '@godwit/transport';
import { type EstimatedGuest, GUESTS } from './guests.js';

const DOWNTIME_LIMIT_MS = 300;
/** A guest of 256 MiB that has not converged within this time counts as not converging. */
const BUDGET_MS = 20_000;
/** How many of 20 estimates may be wrong about convergence. */
const MOST_WRONG = 1;

interface Outcome {
  readonly guest: EstimatedGuest;
  readonly estimated: Estimate;
  readonly converged: boolean;
  readonly totalMs: number | undefined;
  readonly downtimeMs: number | undefined;
  readonly refused: boolean;
}

export interface EstimateOptions {
  readonly short: boolean;
  readonly json: boolean;
}

/**
 * `npm run bench -- estimate`: estimates live KVM guests, migrates each of them with a plain downtime limit, and compares. The same
 * guest is migrated with `refuseAbove` first, which must refuse those that do not converge. The exit status is 1 when more than one
 * estimate was wrong about convergence.
 */
export async function estimateBenchmark({ short, json }: EstimateOptions): Promise<void> {
  const guests = short ? GUESTS.filter((_, index) => index % 5 === 0) : GUESTS;
  const outcomes: Outcome[] = [];
  for (const guest of guests) {
    const outcome = await play(guest);
    outcomes.push(outcome);
    process.stderr.write(`${line(outcome)}\n`);
  }
  const wrong = outcomes.filter(({ estimated, converged }) => estimated.converges !== converged);
  const misjudged = outcomes.filter(({ refused, converged }) => refused === converged);
  if (json) process.stdout.write(`${JSON.stringify({ benchmark: 'estimate', outcomes: outcomes.map(figures) })}\n`);
  else {
    process.stdout.write(`${outcomes.map(line).join('\n')}\n`);
    process.stdout.write(
      `right about convergence: ${outcomes.length - wrong.length} of ${outcomes.length}; refuseAbove right: ` +
        `${outcomes.length - misjudged.length} of ${outcomes.length}\n`,
    );
  }
  if (wrong.length > MOST_WRONG || misjudged.length > MOST_WRONG) process.exitCode = 1;
}

async function play(guest: EstimatedGuest): Promise<Outcome> {
  const { memoryBytes, vcpus, workload, bytesPerSecond } = guest;
  const source = await Machine.create({ memoryBytes, vcpus, workload });
  try {
    await source.resume();
    const policy = firstOpinion(withinDowntimeLimit, timeBudget(BUDGET_MS, 'abort'));
    const settings = { downtimeLimitMs: DOWNTIME_LIMIT_MS, policy, bandwidthLimit: bytesPerSecond };
    const estimated = await withDestination((connector) =>
      estimate(source, connector, { ...settings, description: source.description }),
    );
    const refused = await move(source, { ...settings, refuseAbove: { downtimeMs: 2 * DOWNTIME_LIMIT_MS }, dry: true });
    const moved = await move(source, settings);
    return {
      guest,
      estimated,
      refused: refused.code === 'GODWIT_ESTIMATE_EXCEEDED',
      converged: moved.summary !== undefined,
      totalMs: moved.summary?.totalMs,
      downtimeMs: moved.summary?.downtimeMs,
    };
  } finally {
    await source.close();
  }
}

type Moving = Parameters<typeof migrate>[2] & { readonly dry?: boolean };

/** Migrates a machine into this process; with `dry` the migration is cancelled as soon as it was admitted. */
async function move(source: Machine, { dry = false, ...options }: Moving) {
  return withDestination(async (connector) => {
    const migration = migrate(source, connector, { ...options, description: source.description });
    const watching = migration.subscribe((event) => {
      if (dry && event.type === 'round-start') migration.cancel('it was admitted');
    });
    try {
      return { summary: await migration.result, code: undefined };
    } catch (error) {
      if (!GodwitError.is(error)) throw error;
      if (!['GODWIT_NOT_CONVERGING', 'GODWIT_ESTIMATE_EXCEEDED', 'GODWIT_CANCELLED'].includes(error.code)) throw error;
      return { summary: undefined, code: error.code };
    } finally {
      watching.unsubscribe();
    }
  });
}

async function withDestination<T>(work: (connector: ReturnType<typeof connectTo>) => Promise<T>): Promise<T> {
  const listening = await listenOn(tcp({ host: '127.0.0.1', port: 0 }));
  const machines: Machine[] = [];
  const incoming = receive(listening, {
    prepare: async (description) => {
      const machine = await Machine.fromDescription(description);
      machines.push(machine);
      return machine;
    },
  });
  try {
    return await work(connectTo(tcp({ host: '127.0.0.1', port: listening.listener.port })));
  } finally {
    incoming.cancel('the measurement is over');
    await incoming.result.catch(() => {});
    await listening.close();
    for (const machine of machines) await machine.close();
  }
}

function figures({ guest, estimated: { sample, ...estimated }, ...rest }: Outcome) {
  return { guest: guest.name, ...rest, estimated, workingSet: sample.workingSet };
}

function line({ guest, estimated, converged, totalMs, downtimeMs, refused }: Outcome): string {
  const { converges, certain, totalMs: total, downtimeMs: down } = estimated;
  const said = converges
    ? `${total.expected.toFixed(0)} ms, down ${down.expected.toFixed(0)} (${down.low.toFixed(0)} to ${down.high.toFixed(0)})`
    : 'does not converge';
  const really = converged ? `${totalMs?.toFixed(0)} ms, down ${downtimeMs?.toFixed(0)}` : 'did not converge';
  const verdict = converges === converged ? 'right' : 'WRONG';
  return `${verdict}${certain ? '' : ' (uncertain)'}: ${guest.name}: estimated ${said}; ${really}${refused ? '; refused' : ''}`;
}
