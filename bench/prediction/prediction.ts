import { fork } from 'node:child_process';
import { loadavg } from 'node:os';
import { hasKvm } from '@godwit/example-node-vmm';
import { CommandProcess } from '@godwit/example-node-vmm/process';
import { CASES, type PredictionCase, SHORT_CASES } from './cases.js';
import { type HostCommands, type HostMessage, LAST_RESORT_MS } from './host-messages.js';
import { qemuFigures } from './qemu-figure.js';
import { HEAD, line, type Run, runOf, SIMULATED_HEAD, simulatedSummary, summary, totalsOf } from './table.js';

/** In the short form, at least this many of the twelve cases have to be inside their interval, in one of two passes. */
const LEAST_INSIDE = 8;
const PASSES = 2;

/** The exit status where there is no KVM. */
const CANNOT_RUN_HERE = 3;

export interface PredictionOptions {
  readonly times: number;
  /** Only cases whose name contains this text. */
  readonly only: string;
  readonly short: boolean;
  /** Whether every term is printed, below each line. */
  readonly terms: boolean;
  /** Whether each migration is simulated too. */
  readonly simulate: boolean;
  /** Whether QEMU's own prediction of the sweep guest's downtime, and Godwit's, are printed below the table. */
  readonly qemu: boolean;
  readonly json: boolean;
}

type Host = CommandProcess<HostCommands, HostMessage>;

/**
 * `npm run bench -- prediction`: migrates a KVM guest over loopback, in many settings, and compares the downtime that was predicted at the
 * decision with the one that the guest saw. With `short`, 12 cases run once each: the exit status is 1 when fewer than 8 are inside their
 * interval in each of two passes; there is a second pass because other processes may have disturbed the first.
 */
export async function predictionBenchmark(options: PredictionOptions): Promise<void> {
  const { times, only, short, json } = options;
  if (!hasKvm()) {
    process.stderr.write('prediction: cannot run here: no access to /dev/kvm\n');
    process.exitCode = CANNOT_RUN_HERE;
    return;
  }
  const cases = (short ? SHORT_CASES : CASES).filter(({ name }) => name.includes(only));
  const load = loadavg()[0] as number;
  const head = options.simulate ? `${HEAD}${SIMULATED_HEAD}` : HEAD;
  if (!json) process.stdout.write(`${head}\n`);
  const judged = short && only === '';
  const least = LEAST_INSIDE * times;
  let runs: readonly Run[] = [];
  const source = start('source');
  const destination = start('destination');
  try {
    for (let pass = 0; pass < (judged ? PASSES : 1); pass++) {
      const these: Run[] = [];
      for (let time = 0; time < times; time++) {
        for (const chosen of cases) {
          const run = runOf(chosen, await move(source, destination, chosen, options.simulate));
          these.push(run);
          if (!json) process.stdout.write(`${line(run)}\n${options.terms ? `${termsOf(run)}\n` : ''}`);
        }
      }
      runs = these;
      if (totalsOf(runs).inside >= least) break;
    }
  } finally {
    await Promise.all([source.end(LAST_RESORT_MS), destination.end(LAST_RESORT_MS)]);
  }
  const totals = totalsOf(runs);
  const busy =
    load > 1
      ? `the machine had a load of ${load.toFixed(1)} before: others used it, and the figures are worth little`
      : '';
  const qemu = options.qemu ? await qemuFigures(times) : [];
  if (json)
    process.stdout.write(`${JSON.stringify({ benchmark: 'prediction', totals, runs, loadBefore: load, qemu })}\n`);
  else process.stdout.write(`\n${summary(totals)}\n${simulatedSummary(runs)}${busy === '' ? '' : `${busy}\n`}`);
  if (!json && qemu.length > 0) process.stdout.write(`\n${qemu.join('\n')}\n`);
  if (judged && totals.inside < least) {
    process.stderr.write(
      `prediction: ${totals.inside} of ${totals.runs} inside, in ${PASSES} passes; ${least} have to be\n`,
    );
    process.exitCode = 1;
  }
}

function start(name: string): Host {
  const child = fork(new URL('./host.js', import.meta.url), { serialization: 'advanced' });
  return new CommandProcess(name, child, () => {});
}

async function move(source: Host, destination: Host, chosen: PredictionCase, alsoSimulated: boolean) {
  try {
    await source.ask('boot', chosen);
    const port = await destination.ask('listen', chosen);
    const arrival = destination.ask('arrival', null);
    arrival.catch(() => {});
    const outcome = await source.ask('send', { port, chosen, alsoSimulated });
    await arrival;
    return outcome;
  } finally {
    await Promise.all([source.ask('close', null), destination.ask('close', null)]);
  }
}

function termsOf({ terms }: Run): string {
  return Object.entries(terms)
    .map(([name, { predictedMs, rangeMs, actualMs }]) => {
      const outside = actualMs < rangeMs[0] || actualMs > rangeMs[1] ? '!' : '';
      const interval = `[${rangeMs[0].toFixed(1)} ${rangeMs[1].toFixed(1)}]`;
      return `    ${name.replace('Ms', '')} ${predictedMs.toFixed(1)} ${interval} ${actualMs.toFixed(1)}${outside}`;
    })
    .join('');
}
