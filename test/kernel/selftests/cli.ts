/**
 * `npm run test:selftests -- [--short] [--timeout SECONDS] [SESSION...]`
 *
 * The kernel's own selftests as judges: builds them from Debian's packages of the kernel's source, runs them in the machines of
 * `npm run test:kernel`, and our tests of the same subjects beside them, on the same kernel. Prints how many tests were ok, not ok and
 * skipped, and where the two judge differently. A word behind `--` keeps to the sessions that have it in their name; `--short` leaves
 * out tests that take long and are of nothing that Godwit uses.
 */
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { debianTree } from '../harness/debian-packages.js';
import { shellScript } from '../harness/guest-script.js';
import { SHARE_IN_GUEST } from '../harness/init-script.js';
import { MACHINES, ROOT } from '../harness/machines.js';
import { type BootResult, bootAndRun } from '../harness/test-machine.js';
import { newestSelftests, stockSelftests } from './built-selftests.js';
import { type Judge, SESSIONS, type Session } from './judges.js';
import { countsOf, resultsOf } from './verdict.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { short: { type: 'boolean', default: false }, timeout: { type: 'string', default: '7200' } },
});

/** What one run of Jest has counted, as tools/jest/skip-reporter.js writes it. */
interface Tally {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

/** The longest time of one of our tests. Milliseconds: the processor is emulated, and the machine may be busy. */
const TEST_MS = 600_000;

const say = (text: string): boolean => process.stdout.write(`${text}\n`);

try {
  const sessions = SESSIONS.filter(({ name }) => positionals.every((word) => name.includes(word)));
  if (sessions.length === 0) throw new Error(`no session has ${positionals.join(' and ')} in its name`);
  for (const session of sessions) await judged(session);
} catch (error) {
  say(`selftests: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}

async function judged(session: Session): Promise<void> {
  const tree = await debianTree();
  const { image, kernel } = await MACHINES[session.machine](tree);
  const selftests = await (session.machine === 'newest' ? newestSelftests(tree, kernel) : stockSelftests(tree));
  say(`selftests: booting ${session.machine} for ${session.name}`);
  const script = session.judges.map((judge, i) => scriptOf(judge, i, selftests.program(judge.program))).join('\n');
  const prepared = `echo ${session.hugePages} >/proc/sys/vm/nr_hugepages\n${script}`;
  const memory = session.memoryGiB === undefined ? {} : { memoryGiB: session.memoryGiB };
  const result = await bootAndRun(
    tree,
    { ...image, ...memory },
    shellScript(ROOT, prepared),
    Number(values.timeout) * 1000,
  );
  for (const [i, judge] of session.judges.entries()) report(session, judge, result, i);
  if (result.status === undefined) throw new Error(`${session.name}: the machine ended before the selftests did`);
}

/** Runs one selftest and then our tests; what they print is in the share, since the console is slow. */
function scriptOf({ args = [], short = [], ours }: Judge, index: number, path: string): string {
  const share = `${SHARE_IN_GUEST}/${index}`;
  // Only the folders of these tests are looked through: the whole project takes minutes in there.
  const folders = [...new Set(ours.map((test) => join(ROOT, dirname(test))))];
  const where = folders.flatMap((folder) => ['--roots', folder, '--testMatch', `'${folder}/*.test.js'`]);
  const run = [
    'node_modules/jest/bin/jest.js',
    '--config',
    'test/kernel/jest.config.js',
    `--testTimeout=${TEST_MS}`,
    ...where,
    '--',
    ...ours,
  ];
  const node = [process.execPath, '--experimental-vm-modules', '--no-warnings=ExperimentalWarning'];
  const runs = values.short && short.length > 0 ? short : [args.join(' ')];
  const calls = runs.map(
    (words) => `timeout -k 5 ${values.timeout} ${path} ${words} >>${share}.log 2>&1; s=$?; [ $s = 0 ] || worst=$s`,
  );
  return `
worst=0; cd $TMPDIR
${calls.join('\n')}
cd - >/dev/null; echo $worst >${share}.status
echo "selftests: ${[path.replace(/.*\//, ''), ...args].join(' ')}: $worst"
GODWIT_TEST_TIMEOUT=${TEST_MS} TALLY_FILE=${share}.tally ${[...node, ...run].join(' ')} >${share}.ours 2>&1`;
}

function report(session: Session, judge: Judge, { files }: BootResult, index: number): void {
  const title = `${judge.program} ${(judge.args ?? []).join(' ')}`.trim();
  const [text, status] = [files.get(`${index}.log`), files.get(`${index}.status`)];
  if (text === undefined || status === undefined) {
    say(`${session.name}: ${title} did not end`);
    process.exitCode = 1;
    return;
  }
  const results = resultsOf(judge.program, { text, status: Number(status) });
  const all = countsOf(results);
  say(`${session.name}: ${title}: ${all.ok} ok, ${all.notOk} not ok, ${all.skip} skipped`);
  for (const { name, outcome, why } of results) {
    if (outcome !== 'not ok') continue;
    const note = judge.exempt?.tests.test(name) ? ` (${judge.exempt.because})` : '';
    say(`  not ok: ${name}${why === undefined ? '' : `: ${why}`}${note}`);
  }
  const about = countsOf(results.filter(({ name }) => judge.about.test(name) && !judge.exempt?.tests.test(name)));
  const tallies = (files.get(`${index}.tally`) ?? '').split('\n').filter((line) => line !== '');
  const [ours] = tallies.map((line) => JSON.parse(line) as Tally);
  say(`  ${judge.subject}: ${about.ok} ok, ${about.notOk} not ok, ${about.skip} skipped by the kernel's tests`);
  say(`  by ours: ${ours === undefined ? 'they did not end' : `${ours.passed} passed, ${ours.failed} failed`}`);
  const agree = ours !== undefined && about.ok > 0 && about.notOk === 0 && ours.passed > 0 && ours.failed === 0;
  say(
    `  ${agree ? 'both say that the kernel does what Godwit relies on' : 'they DIFFER, or both found fault: look at each'}`,
  );
  if (agree) return;
  process.exitCode = 1;
  say(text.split('\n').slice(-40).join('\n'));
  say((files.get(`${index}.ours`) ?? '').split('\n').slice(-60).join('\n'));
}
