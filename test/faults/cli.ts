import { parseArgs } from 'node:util';
import { LiveGuest } from '../guest/live-guest.js';
import { type CaseSeries, cutsAtBytes, cutsAtFrames, FEW_ROUNDS, MANY_ROUNDS, otherFaults } from './all-cases.js';
import { cutTenTimes } from './cut-ten-times.js';
import { failedMigrations } from './failed-migrations.js';
import { caseName, type FaultCase, parseCase } from './fault-case.js';
import { describeLeftovers, leftovers } from './leftovers.js';
import { runCase } from './run-case.js';
import { type DeathCase, deathName, parseDeath, runDeath } from './run-death.js';
import { seeded } from './seeded.js';

const USAGE = `npm run test:faults -- [--seed N] [--offsets N] [--series TEXT] [--only CASE]
  --seed     where the random numbers start (default 1): places of byte offsets, what corrupted bytes become
  --offsets  byte offsets to cut at, in each direction (default 500)
  --series   only those series of cases whose name has this text in it
  --only     one case by its name, as a failing run prints it
`;

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: '1' },
    offsets: { type: 'string', default: '500' },
    only: { type: 'string' },
    series: { type: 'string', default: '' },
    help: { type: 'boolean', default: false },
  },
});
const seed = Number(values.seed);
const offsets = Number(values.offsets);
if (values.help || !Number.isSafeInteger(seed) || !(offsets >= 1)) {
  process.stderr.write(USAGE);
  process.exit(values.help ? 0 : 2);
}

process.on('unhandledRejection', (error) => {
  process.stderr.write(`an error that nobody handled: ${error instanceof Error ? error.stack : String(error)}\n`);
  process.exit(1);
});

/** A run that ends before its fault strikes: after this many in a row, later places will not be reached either. */
const MISSES = 2;

const wanted = (name: string): boolean => name.includes(values.series);

let cases = 0;
let failed = 0;
const guest = await LiveGuest.boot();

async function tryCase(one: FaultCase, endings: Map<string, number>) {
  const result = await runCase(guest, one, seed);
  cases++;
  if (result.struck) endings.set(result.ending, (endings.get(result.ending) ?? 0) + 1);
  report(caseName(one), result.ending, result.problems);
  return result;
}

function report(name: string, ending: string, problems: readonly string[], again = `--only ${name}`): void {
  if (problems.length === 0) return;
  failed++;
  process.stdout.write(`FAILED ${name}: ${ending}\n`);
  for (const problem of problems) process.stdout.write(`  ${problem}\n`);
  process.stdout.write(`  npm run test:faults -- --seed ${seed} ${again}\n`);
}

function print(name: string, endings: ReadonlyMap<string, number>): void {
  const counts = [...endings].sort(([, a], [, b]) => b - a);
  const total = counts.reduce((sum, [, count]) => sum + count, 0);
  process.stdout.write(
    `${name}: ${total} cases: ${counts.map(([ending, count]) => `${count} ${ending}`).join('; ')}\n`,
  );
}

async function trySeries({ name, at, untilNotStruck }: CaseSeries): Promise<void> {
  const endings = new Map<string, number>();
  let misses = 0;
  for (let n = 0; misses < MISSES || !untilNotStruck; n++) {
    const one = at(n);
    if (one === undefined) break;
    const result = await tryCase(one, endings);
    misses = result.struck ? 0 : misses + 1;
  }
  print(name, endings);
}

/** Either process kills itself before every frame that it writes or takes. */
async function tryDeaths(): Promise<void> {
  for (const victim of ['source', 'destination'] as const) {
    for (const direction of ['out', 'in'] as const) {
      const name = `SIGKILL of the ${victim} before every frame that it ${direction === 'out' ? 'writes' : 'takes'}`;
      if (!wanted(name)) continue;
      const endings = new Map<string, number>();
      let struck = true;
      for (let frame = 0; struck; frame++) struck = await tryDeath({ victim, direction, frame }, endings);
      print(name, endings);
    }
  }
}

/** Something that is one case, or many, and tells its own figures. */
async function tryWhole(
  name: string,
  count: number,
  run: () => Promise<{ readonly summary: string; readonly problems: readonly string[] }>,
): Promise<void> {
  if (!wanted(name)) return;
  const { summary, problems } = await run();
  cases += count;
  process.stdout.write(`${summary}\n`);
  report(name, 'figures that must not be', problems, `--series '${name}'`);
}

async function tryDeath(one: DeathCase, endings: Map<string, number>): Promise<boolean> {
  const { struck, ending, problems } = await runDeath(one);
  cases++;
  report(deathName(one), ending, problems);
  if (struck) endings.set(ending, (endings.get(ending) ?? 0) + 1);
  return struck;
}

try {
  const death = values.only === undefined ? undefined : parseDeath(values.only);
  if (death !== undefined) {
    const endings = new Map<string, number>();
    await tryDeath(death, endings);
    print(values.only ?? '', endings);
  } else if (values.only !== undefined) {
    const { ending, struck } = await tryCase(parseCase(values.only), new Map());
    process.stdout.write(`${values.only}: ${struck ? ending : 'the fault did not strike'}\n`);
  } else {
    const random = seeded(seed);
    // The first runs make the process warm: what they leave is what a process has.
    const uncut = { kind: 'cut', stream: 0, at: { frame: 1_000_000 }, pageChannels: 0, checksum: false } as const;
    const short = await tryCase({ ...uncut, direction: 'out', rounds: FEW_ROUNDS }, new Map());
    const long = await tryCase({ ...uncut, direction: 'in', rounds: MANY_ROUNDS }, new Map());
    const before = await leftovers();
    process.stdout.write(
      `an uncut migration: ${short.bytes.out} bytes to the destination; ${long.bytes.in} back in ${MANY_ROUNDS} rounds\n`,
    );
    for (const series of [
      ...cutsAtFrames(),
      cutsAtBytes('out', offsets, short.bytes.out, random),
      cutsAtBytes('in', offsets, long.bytes.in, random),
      ...otherFaults(),
    ]) {
      if (wanted(series.name)) await trySeries(series);
    }
    const after = await leftovers();
    process.stdout.write(`before: ${describeLeftovers(before)}\nafter:  ${describeLeftovers(after)}\n`);
    await tryDeaths();
    await tryWhole('cut ten times', 1, () => cutTenTimes(2 ** 30));
    await tryWhole('failed migrations', 101, () => failedMigrations(guest, 100));
  }
} finally {
  await guest.close();
}
process.stdout.write(`${cases} cases, ${failed} failed, seed ${seed}\n`);
if (failed > 0) process.exitCode = 1;
