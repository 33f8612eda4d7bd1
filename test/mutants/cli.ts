import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { copyOfCore } from './copy.js';
import { killedIn } from './earlier-output.js';
import { hashOf, idOf } from './mutant.js';
import { report } from './report.js';
import { sourcesOf } from './scope.js';
import { reasonOf } from './survivors/index.js';
import { tryMutants, type Verdict } from './try-mutants.js';

const USAGE = `npm run test:mutants -- [--short | --sample N [--seed N]] [--only TEXT] [--after FILE] [--parallel N] [--verbose]
  --short     the sample that CI takes
  --sample    tries so many mutants, none of them a listed survivor
  --seed      which ones (default 1)
  --only      keeps to mutants with this text in their name: a file, a method, a change
  --after     goes on after a run that was ended: FILE is what it printed with --verbose; what it killed is not tried again
  --parallel  processes (default: one for each processor)
  --verbose   prints each verdict when it is known, with the test and its error
`;

/** The number of mutants in the short form, and the seed that chooses them. */
const SHORT = 12;

const { values } = parseArgs({
  options: {
    short: { type: 'boolean', default: false },
    sample: { type: 'string', default: '0' },
    seed: { type: 'string', default: '1' },
    only: { type: 'string', default: '' },
    after: { type: 'string' },
    parallel: { type: 'string', default: String(availableParallelism()) },
    verbose: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});
const parallel = Number(values.parallel);
const seed = Number(values.seed);
const count = values.short ? SHORT : Number(values.sample);
if (values.help || ![parallel, seed, count].every(Number.isSafeInteger) || parallel < 1) {
  process.stderr.write(USAGE);
  process.exit(values.help ? 0 : 2);
}

const REPOSITORY = join(import.meta.dirname, '..', '..', '..');
const startedAt = performance.now();
const copy = copyOfCore(REPOSITORY, sourcesOf(REPOSITORY));
process.once('exit', () => copy.remove());
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));

const ids = copy.mutants.map(idOf);
const earlier = values.after === undefined ? new Map() : killedIn(readFileSync(values.after, 'utf8'), copy.mutants);
const numbers = chosen().filter((number) => !earlier.has(number));
print(`${numbers.length} of ${ids.length} mutants, ${parallel} at a time`);
if (earlier.size > 0) print(`${earlier.size} were killed by the run before`);
let done = 0;
const verdicts = await tryMutants(copy, numbers, { parallel, quickestFirst: count === 0, onVerdict });
const { lines, failed } = report([...earlier.values(), ...verdicts], new Set(ids), count === 0 && values.only === '');
for (const line of lines) print(line);
print(`${seconds()} s`);
if (failed) process.exitCode = 1;

function chosen(): number[] {
  const wanted = [...ids.keys()].filter((number) => (ids[number] as string).includes(values.only));
  if (count === 0) return wanted;
  const order = (number: number): number => hashOf(ids[number] as string, seed);
  return wanted
    .filter((number) => reasonOf(ids[number] as string) === undefined)
    .sort((a, b) => order(a) - order(b))
    .slice(0, count)
    .sort((a, b) => a - b);
}

function onVerdict({ id, killed, tests }: Verdict): void {
  done++;
  if (values.verbose) {
    const [why = ''] = (killed?.why ?? '').split('\n');
    print(killed === undefined ? `survived ${tests} tests: ${id}` : `killed: ${id}\n  by ${killed.by}: ${why}`);
  } else if (done % 100 === 0) print(`${done} of ${numbers.length}, ${seconds()} s`);
}

function seconds(): string {
  return ((performance.now() - startedAt) / 1000).toFixed(0);
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
