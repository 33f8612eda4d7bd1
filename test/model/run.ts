/**
 * `npm run model`: has Spin search every state of switchover.pml for each claim, and refuse each variant that is wrong on
 * purpose. Ends with 0 only if all of that came out as it should.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CLAIMS, VARIANTS, type Variant } from './variants.js';
import { passed, refused } from './verdict.js';

const MODEL = join(import.meta.dirname, '..', '..', 'model', 'switchover.pml');
/** Steps of one run that Spin follows; it says so when that does not suffice. */
const DEPTH = 10_000;
/** Mebibytes that a verifier may take; it says so when that does not suffice. */
const MEMORY = 2048;

/** Variables of the model as events. */
const MEANING: Readonly<Record<string, (value: string) => string>> = {
  sOwn: (value) => `source: ${value.slice(2)}`,
  dOwn: (value) => `destination: ${value.slice(2)}`,
  sAlive: (value) => (value === '0' ? 'the source dies' : 'the source lives'),
  dAlive: (value) => (value === '0' ? 'the destination dies' : 'the destination is started again'),
  wire: (value) => (value === '0' ? 'the link is lost' : 'the link is up'),
  conn: (value) => `connection ${value}`,
};

const folder = mkdtempSync(join(tmpdir(), 'godwit-model-'));
try {
  process.exitCode = main() ? 0 : 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}

function main(): boolean {
  for (const [tool, argument] of [
    ['spin', '-V'],
    ['cc', '--version'],
  ] as const) {
    if (spawnSync(tool, [argument]).status === 0) continue;
    process.stderr.write(`npm run model needs Spin and a C compiler; "${tool}" is missing. On Debian, as root:\n`);
    process.stderr.write('  apt-get install spin gcc libc6-dev\n');
    return false;
  }
  const wrong: string[] = [];
  const attempt = (name: string, act: () => string) => {
    const started = performance.now();
    try {
      process.stdout.write(`${name}: ${act()} (${((performance.now() - started) / 1000).toFixed(1)} s)\n`);
    } catch (error) {
      wrong.push(name);
      process.stdout.write(`${name}: NOT AS IT SHOULD BE: ${error instanceof Error ? error.message : String(error)}\n`);
    }
  };
  process.stdout.write('The protocol of docs/switchover.md:\n');
  attempt('assertions, deadlocks, code never reached', () => summary(passed(search(undefined, undefined), undefined)));
  for (const [claim, meaning] of Object.entries(CLAIMS)) {
    attempt(`${claim} (${meaning})`, () => summary(passed(search(undefined, claim), claim)));
  }
  process.stdout.write('\nWrong on purpose:\n');
  for (const variant of VARIANTS) attempt(variant.macro, () => refusal(variant));
  process.stdout.write(
    wrong.length === 0
      ? `\n${1 + Object.keys(CLAIMS).length} searches, errors: 0. ${VARIANTS.length} wrong variants, each refused.\n`
      : `\nNot as it should be: ${wrong.join('; ')}\n`,
  );
  return wrong.length === 0;
}

function summary({ states, errors, mebibytes }: ReturnType<typeof passed>): string {
  return `${states.toLocaleString('en')} states explored, errors: ${errors}, ${mebibytes.toFixed(0)} MiB`;
}

function refusal({ macro, refutedBy }: Variant): string {
  const { found, states } = refused(search(macro, refutedBy), refutedBy);
  const by = refutedBy ?? found;
  return `refused after ${states.toLocaleString('en')} states: ${by}\n    ${trailEnd(macro).join('\n    ')}\n   `;
}

/** Builds the verifier and runs it: what it printed. */
function search(macro: string | undefined, claim: string | undefined): string {
  const defined = macro === undefined ? [] : [`-D${macro}`];
  run('spin', [...defined, '-a', MODEL]);
  // A refusal comes quickly: for it, compiling is what takes the time.
  const optimize = macro === undefined ? '-O2' : '-O0';
  run('cc', [
    '-w',
    optimize,
    '-DCOLLAPSE',
    `-DMEMLIM=${MEMORY}`,
    ...(claim === undefined ? ['-DNOCLAIM'] : []),
    '-o',
    'pan',
    'pan.c',
  ]);
  return run('./pan', [`-m${DEPTH}`, ...(claim === undefined ? [] : ['-a', '-N', claim])]);
}

/** How the run that Spin found ends: the last changes of who may run the guest, of who lives, and what was read. */
function trailEnd(macro: string): string[] {
  const steps = run('spin', [`-D${macro}`, '-t', '-p', '-g', '-k', 'switchover.pml.trail', MODEL]).split('\n');
  const values = new Map<string, string>();
  const told: string[] = [];
  for (const step of steps) {
    if (step.includes('processes:')) break;
    const [, name, value] = /^\t\t(sOwn|dOwn|sAlive|dAlive|wire|conn) = (\w+)$/.exec(step) ?? [];
    if (name === undefined || value === undefined || values.get(name) === value) continue;
    values.set(name, value);
    told.push(MEANING[name]?.(value) ?? '');
  }
  return told.slice(-8);
}

function run(file: string, args: readonly string[]): string {
  const { status, stdout, stderr, error } = spawnSync(file, args, {
    cwd: folder,
    encoding: 'utf8',
    maxBuffer: 2 ** 26,
  });
  if (error !== undefined) throw error;
  // Spin reports mistakes in a model on its standard output, and some of them without a status.
  if (status !== 0 || /\bError: (?!assertion violated)/.test(stdout)) {
    throw new Error(`${file} ended with ${status}:\n${stdout.slice(-2000)}${stderr.slice(-2000)}`);
  }
  return stdout;
}
