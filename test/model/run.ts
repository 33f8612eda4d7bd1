/**
 * `npm run model`: has Spin search every state of switchover.pml for each claim, and refuse each variant that is wrong on
 * purpose. Exits with 0 only if all searches have the expected result. Words after `--` choose claims and variants by name.
 */
import { execFile, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { CLAIMS, VARIANTS, type Variant } from './variants.js';
import { failedLine, passed, refused } from './verdict.js';

const CHOSEN = process.argv.slice(2);
const MODEL = join(import.meta.dirname, '..', '..', 'model', 'switchover.pml');
/** The most steps of one run that Spin follows; Spin reports if a run is longer. */
const DEPTH = 10_000;
/** Mebibytes that a verifier may use; the verifier reports if it needs more. */
const MEMORY = 2048;
/** The settings of a search with a third stop-and-copy, and fewer troubles. */
const THREE_ATTEMPTS = ['ATTEMPTS=3', 'TROUBLES=4'];
/** As many troubles as any variant needs for its error: with more, Spin only takes longer to find the error. */
const VARIANT_TROUBLES = 'TROUBLES=3';
/** Spin's options for printing the run that a verifier has found, with every change of a variable. */
const TRAIL = ['-t', '-p', '-g', '-k', 'switchover.pml.trail'];

/** The meaning of changes of the model's variables, as events. */
const MEANING: Readonly<Record<string, (value: string) => string>> = {
  sOwn: (value) => `source: ${value.slice(2)}`,
  dOwn: (value) => `destination: ${value.slice(2)}`,
  sAlive: (value) => (value === '0' ? 'the source dies' : 'the source lives'),
  dAlive: (value) => (value === '0' ? 'the destination dies' : 'the destination is started again'),
  wire: (value) => (value === '0' ? 'the link is lost' : 'the link is up'),
  sAttempt: (value) => `attempt ${value}`,
  aOwner: (value) => (value === '0' ? 'authority: the source' : 'authority: the destination'),
  sSecond: () => 'a second migration takes the VM',
};

/** One check of the model, and its outcome. */
interface Check {
  readonly name: string;
  readonly act: (folder: string) => Promise<string>;
}

/** The search that a verifier is built for. */
interface Search {
  readonly folder: string;
  readonly macros?: readonly string[];
  /** The claim to check; without one, assertions, deadlocks and unreached code are checked. */
  readonly claim?: string | undefined;
}

process.exitCode = (await main()) ? 0 : 1;

async function main(): Promise<boolean> {
  for (const [tool, argument] of [
    ['spin', '-V'],
    ['cc', '--version'],
  ] as const) {
    if (spawnSync(tool, [argument]).status === 0) continue;
    process.stderr.write(`npm run model needs Spin and a C compiler; "${tool}" is missing. On Debian, as root:\n`);
    process.stderr.write('  apt-get install spin gcc libc6-dev\n');
    return false;
  }
  const chosen = ({ name }: Check) => CHOSEN.length === 0 || CHOSEN.some((word) => name.includes(word));
  const protocol: Check[] = [
    { name: 'assertions, deadlocks, code never reached', act: (folder: string) => holds({ folder }) },
    ...Object.entries(CLAIMS).map(([claim, meaning]) => ({
      name: `${claim} (${meaning})`,
      act: (folder: string) => holds({ folder, claim }),
    })),
    {
      name: 'neverTwoRunners, and assertions, with three attempts',
      act: (folder: string) => holds({ folder, macros: THREE_ATTEMPTS, claim: 'neverTwoRunners' }),
    },
  ].filter(chosen);
  const wrong = VARIANTS.map((variant) => ({
    name: variant.macro,
    act: (folder: string) => refusal(variant, folder),
  })).filter(chosen);
  if (protocol.length + wrong.length === 0) {
    process.stderr.write(`no claim and no variant has ${CHOSEN.join(' or ')} in its name\n`);
    return false;
  }
  const outcomes = inParallel([...protocol, ...wrong]);
  const failed: string[] = [];
  for (const [index, { name }] of [...protocol, ...wrong].entries()) {
    if (index === 0) process.stdout.write('The protocol of docs/switchover.md:\n');
    if (index === protocol.length) process.stdout.write('\nWrong on purpose:\n');
    const { said, error } = (await outcomes[index]) ?? {};
    if (error === undefined) process.stdout.write(`${name}: ${said}\n`);
    else {
      failed.push(name);
      process.stdout.write(`${name}: NOT AS IT SHOULD BE: ${error}\n`);
    }
  }
  process.stdout.write(
    failed.length === 0
      ? `\n${protocol.length} searches, errors: 0. ${wrong.length} wrong variants, each refused.\n`
      : `\nNot as it should be: ${failed.join('; ')}\n`,
  );
  return failed.length === 0;
}

interface Outcome {
  readonly said?: string;
  readonly error?: string;
}

/** Makes the checks, as many at a time as there are processors, but no more than two: a verifier takes up to a gigabyte. */
function inParallel(checks: readonly Check[]): readonly Promise<Outcome>[] {
  const waiting: ((free: undefined) => void)[] = [];
  let free = Math.min(2, availableParallelism());
  return checks.map(async ({ act }) => {
    if (free > 0) free--;
    else await new Promise<undefined>((resolve) => waiting.push(resolve));
    const folder = mkdtempSync(join(tmpdir(), 'godwit-model-'));
    const started = performance.now();
    try {
      const said = await act(folder);
      return { said: `${said} (${((performance.now() - started) / 1000).toFixed(1)} s)` };
    } catch (error) {
      return { error: error instanceof Error ? error.message : String(error) };
    } finally {
      rmSync(folder, { recursive: true, force: true });
      const next = waiting.shift();
      if (next === undefined) free++;
      else next(undefined);
    }
  });
}

async function holds(search: Search): Promise<string> {
  const { states, errors, mebibytes } = passed(await searched(search), search.claim);
  return `${states.toLocaleString('en')} states explored, errors: ${errors}, ${mebibytes.toFixed(0)} MiB`;
}

async function refusal({ macro, claim, assertion }: Variant, folder: string): Promise<string> {
  const macros = [macro, VARIANT_TROUBLES];
  const { states } = refused(await searched({ folder, macros, claim }), claim);
  const trail = await run(folder, 'spin', [...defined(macros), ...TRAIL, MODEL]);
  const line = claim === undefined ? failedLine(trail, readFileSync(MODEL, 'utf8')) : undefined;
  if (line !== undefined && !line.includes(assertion ?? '')) {
    throw new Error(`expected the assertion "${assertion}" to fail, but it was "${line}"`);
  }
  return `refused after ${states.toLocaleString('en')} states: ${claim ?? line}\n    ${trailEnd(trail).join('\n    ')}\n   `;
}

/** Builds the verifier and runs it; resolves with its output. */
async function searched({ folder, macros = [], claim }: Search): Promise<string> {
  await run(folder, 'spin', [...defined(macros), '-a', MODEL]);
  // An expected error is found quickly, so that compiling takes most of the time.
  const optimize = macros.includes(VARIANT_TROUBLES) ? '-O0' : '-O2';
  const limits = ['-DCOLLAPSE', `-DMEMLIM=${MEMORY}`, ...(claim === undefined ? ['-DNOCLAIM'] : [])];
  await run(folder, 'cc', ['-w', optimize, ...limits, '-o', 'pan', 'pan.c']);
  return run(folder, './pan', [`-m${DEPTH}`, ...(claim === undefined ? [] : ['-a', '-N', claim])]);
}

function defined(macros: readonly string[]): string[] {
  return macros.map((macro) => `-D${macro}`);
}

/**
 * The end of the run that Spin found: the last changes of who may run the guest, of which side is alive, and of the link.
 */
function trailEnd(trail: string): string[] {
  const values = new Map<string, string>();
  const told: string[] = [];
  for (const step of trail.split('\n')) {
    if (step.includes('processes:')) break;
    const [, name, value] = /^\t\t(\w+) = (\w+)$/.exec(step) ?? [];
    if (name === undefined || value === undefined || values.get(name) === value) continue;
    values.set(name, value);
    const meaning = MEANING[name]?.(value);
    if (meaning !== undefined) told.push(meaning);
  }
  return told.slice(-8);
}

function run(folder: string, file: string, args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(file, args, { cwd: folder, encoding: 'utf8', maxBuffer: 2 ** 26 }, (error, stdout, stderr) => {
      // Spin reports mistakes in a model on its standard output, and some of them without a status.
      if (error !== null || /\bError: (?!assertion violated)/.test(stdout)) {
        const status = error === null ? 0 : (error.code ?? error.message);
        reject(new Error(`${file} ended with ${status}:\n${stdout.slice(-2000)}${stderr.slice(-2000)}`));
      } else resolve(stdout);
    });
  });
}
