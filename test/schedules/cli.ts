import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { faultInWords } from './fault.js';
import { runMany, type Total } from './run-many.js';
import { runSchedule, unhandled } from './run-schedule.js';
import { SABOTAGES } from './sabotage.js';
import { scheduleOf, without } from './schedule.js';
import { shrink } from './shrink.js';

const USAGE = `npm run test:schedules -- [--count N] [--seed N] [--parallel N] [--only SEED [--without PARTS]] [--sabotage NAME]
  --count     schedules to run (default 100,000)
  --seed      the first one's; the others' follow (default 1)
  --parallel  threads (default: one for each processor)
  --only      runs one schedule, and prints what happens in it
  --without   parts to leave out of it, as a failing run prints them: fault0,device1,delta
  --sabotage  something is wrong on purpose, and has to be noticed: one of
${Object.keys(SABOTAGES)
  .map((name) => `                '${name}'`)
  .join('\n')}
`;

const { values } = parseArgs({
  options: {
    count: { type: 'string', default: '100000' },
    seed: { type: 'string', default: '1' },
    parallel: { type: 'string', default: String(availableParallelism()) },
    only: { type: 'string' },
    without: { type: 'string', default: '' },
    sabotage: { type: 'string', default: '' },
    help: { type: 'boolean', default: false },
  },
});
const count = Number(values.count);
const first = Number(values.seed);
const parallel = Number(values.parallel);
const only = values.only === undefined ? undefined : Number(values.only);
const { sabotage } = values;
const numbers = [count, first, parallel, only ?? 0];
if (values.help || !numbers.every(Number.isSafeInteger) || (sabotage !== '' && SABOTAGES[sabotage] === undefined)) {
  process.stderr.write(USAGE);
  process.exit(values.help ? 0 : 2);
}

/** Number of failures of each kind that are shrunk and printed. */
const SHOWN = 2;

process.on('unhandledRejection', unhandled);
const started = performance.now();
const kind = SABOTAGES[sabotage];
if (only !== undefined) await showOne(only, new Set(values.without.split(',').filter((part) => part !== '')));
else await all();

async function showOne(seed: number, left: ReadonlySet<string>): Promise<void> {
  const schedule = without(scheduleOf(seed), left);
  const { faults, ...rest } = schedule;
  print(JSON.stringify(rest, undefined, 1));
  for (const fault of faults) print(faultInWords(fault));
  const outcome = await runSchedule(schedule, {
    tracing: true,
    ...(kind === undefined ? {} : { sabotage: kind.make() }),
  });
  for (const line of outcome.trace) print(line);
  print(`${outcome.ending}, after ${(outcome.virtualMs / 1000).toFixed(1)} s of virtual time`);
  for (const problem of outcome.problems) print(`PROBLEM ${problem.kind}: ${problem.message}`);
  if (outcome.problems.length > 0) process.exitCode = 1;
}

async function all(): Promise<void> {
  let told = 0;
  let failed = 0;
  const total = await runMany({
    first,
    count,
    parallel,
    sabotage,
    onProgress: ({ count: done, failures }) => {
      for (const { seed, kind, message } of failures.slice(failed)) print(`failed: seed ${seed}: ${kind}: ${message}`);
      failed = failures.length;
      if (done - told < count / 20) return;
      told = done;
      print(`${done} of ${count}, ${failures.length} failed, ${seconds()} s`);
    },
  });
  print(`endings:\n${histogram(total.endings)}`);
  print(`faults that struck:\n${histogram(total.struck)}`);
  await showFailures(total);
  print(
    `${total.count} schedules from seed ${first}, ${total.failures.length} failed, ${seconds()} s on ${parallel} threads`,
  );
  if (total.failures.length > 0) process.exitCode = 1;
}

async function showFailures({ failures }: Total): Promise<void> {
  for (const [name, list] of grouped(failures)) {
    print(
      `FAILED ${name}: ${list.length} schedules, seeds ${list
        .slice(0, 20)
        .map(({ seed }) => seed)
        .join(' ')}`,
    );
    for (const { seed } of list.slice(0, SHOWN)) {
      const small = await shrink(seed, kind);
      if (small === undefined) {
        print(`  seed ${seed} fails only after the schedules before it`);
        continue;
      }
      const { faults } = without(scheduleOf(seed), small.left);
      print(`  seed ${seed}: ${small.outcome.problems[0]?.message}`);
      for (const fault of faults) print(`    ${faultInWords(fault)}`);
      for (const line of small.outcome.trace.filter((text) => !/^ *[\d.]+ {4}/.test(text)).slice(0, 60))
        print(`    ${line}`);
      const option = sabotage === '' ? '' : ` --sabotage '${sabotage}'`;
      print(`    npm run test:schedules -- --only ${seed} --without ${[...small.left].join(',')}${option}`);
    }
  }
}

function grouped<T extends { readonly kind: string }>(list: readonly T[]): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const one of list) groups.set(one.kind, [...(groups.get(one.kind) ?? []), one]);
  return groups;
}

function histogram(counts: ReadonlyMap<string, number>): string {
  return [...counts]
    .sort(([, a], [, b]) => b - a)
    .map(([what, n]) => `  ${String(n).padStart(7)} ${what}`)
    .join('\n');
}

function seconds(): string {
  return ((performance.now() - started) / 1000).toFixed(0);
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
