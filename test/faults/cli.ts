import { execFileSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { allSeries, type CaseSeries, SAMPLED_OFFSETS, SAMPLED_STEP, type UncutBytes } from './all-cases.js';
import { CaseQueue } from './case-queue.js';
import { FaultReport } from './fault-report.js';
import { seeded } from './seeded.js';
import { startWorker, workOff } from './work-off.js';

/** Cases that run at a time per processor: a case waits for most of its time, for a timeout or for a thread to start. */
const CASES_PER_CORE = 3;

/** Most cases at a time: each takes about 120 MiB. */
const MOST_AT_A_TIME = 24;

const USAGE = `npm run test:faults -- [--sample] [--seed N] [--offsets N] [--series TEXT] [--only CASE] [--parallel N]
  --sample    what CI runs: ${SAMPLED_OFFSETS} byte offsets, 1 of ${SAMPLED_STEP.precopy} frames, 1 of ${SAMPLED_STEP.postcopy} of those of post-copy; the seed is
              the commit's
  --seed      where the random numbers start (default 1): places of byte offsets, what corrupted bytes become
  --offsets   byte offsets to cut at, in each direction (default 500)
  --series    only those series of cases whose name has this text in it
  --only      one case by its name, as a failing run prints it
  --parallel  cases at a time, each in a process of its own (default: ${CASES_PER_CORE} for each core)
`;

const { values } = parseArgs({
  options: {
    sample: { type: 'boolean', default: false },
    seed: { type: 'string' },
    offsets: { type: 'string' },
    only: { type: 'string' },
    series: { type: 'string', default: '' },
    parallel: { type: 'string', default: String(Math.min(MOST_AT_A_TIME, CASES_PER_CORE * availableParallelism())) },
    help: { type: 'boolean', default: false },
  },
});
const seed = Number(values.seed ?? (values.sample ? seedOfCommit() : 1));
const offsets = Number(values.offsets ?? (values.sample ? SAMPLED_OFFSETS : 500));
const parallel = Number(values.parallel);
if (values.help || !Number.isSafeInteger(seed) || !(offsets >= 1) || !(parallel >= 1)) {
  process.stderr.write(USAGE);
  process.exit(values.help ? 0 : 2);
}

const report = new FaultReport(seed);
if (values.sample)
  report.line(`a sample: ${offsets} byte offsets each way, one of ${SAMPLED_STEP.precopy} frames, seed ${seed}`);
const first = await startWorker(report);
if (first !== undefined) {
  const series = values.only === undefined ? planned(first.bytes) : [single(values.only)];
  await workOff(new CaseQueue(series), { seed, parallel, report, first: first.worker });
}
report.end();

function planned(bytes: UncutBytes): CaseSeries[] {
  report.line(`an uncut migration: ${bytes.out} bytes to the destination in few rounds, ${bytes.in} back in many`);
  const all = allSeries({ offsets, bytes, random: seeded(seed), ...(values.sample ? { step: SAMPLED_STEP } : {}) });
  const wanted = all.filter(({ name }) => name.includes(values.series));
  if (wanted.length === 0) {
    const names = all.map(({ name }) => name);
    report.besides(`no series has "${values.series}" in its name; there are`, names);
  }
  return wanted;
}

function single(name: string): CaseSeries {
  return { name, at: (n) => (n === 0 ? name : undefined), untilNotStruck: false };
}

/** The first 32 bits of the commit's hash: each commit has its own sample, which can be repeated. */
function seedOfCommit(): number {
  const commit = execFileSync('git', ['rev-parse', 'HEAD'], { encoding: 'utf8' });
  return Number.parseInt(commit.slice(0, 8), 16);
}
