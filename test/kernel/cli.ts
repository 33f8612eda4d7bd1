/**
 * `npm run test:kernel -- [--machine NAME] [--prepare] [--run COMMAND [--keep FOLDER]] [--timeout SECONDS] [PATTERN...]`
 *
 * Boots the kernels that the suites of this folder need, runs the suites inside, and counts their tests like any other
 * Jest run. A machine's suites are in the folder of its name; `newest` has those of `stock` too. With patterns, only the test files whose path matches one;
 * `--machine` keeps to one machine. `--prepare` downloads and builds what is not cached yet, and boots nothing; `--run`
 * runs a shell command inside instead of the suites, in the project's folder; files that it leaves in /run/godwit are copied to the
 * folder after `--keep`.
 */
import { appendFileSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { ROWS_VARIABLE, rowTable } from './conformance/answered-rows.js';
import {
  BUSYBOX_VARIABLE,
  KERNEL_VARIABLE,
  MODULES_VARIABLE,
  MOVES_VARIABLE,
  TRACE_VARIABLE,
} from './guest/linux-files.js';
import { debianTree } from './harness/debian-packages.js';
import { jestScript, shellScript } from './harness/guest-script.js';
import { COMMAND_FILE, SHARE_IN_GUEST, STATUS_FILE } from './harness/init-script.js';
import { isMachine, MACHINE_NAMES, MACHINES, type MachineName, ROOT, suiteFolders } from './harness/machines.js';
import { type BootResult, bootAndRun, TALLY_FILE } from './harness/test-machine.js';

/** Files of the share that the harness itself has put there. */
const OF_THE_HARNESS: ReadonlySet<string> = new Set([COMMAND_FILE, STATUS_FILE, TALLY_FILE]);
/** The rows of the conformance tables that were put to the kernel. */
const ROWS_FILE = 'rows.jsonl';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    machine: { type: 'string' },
    prepare: { type: 'boolean', default: false },
    run: { type: 'string' },
    keep: { type: 'string' },
    timeout: { type: 'string', default: '1500' },
  },
});

try {
  const names = machines();
  const tree = await debianTree();
  for (const name of names) {
    const { image, kernel } = await MACHINES[name](tree);
    if (values.prepare) continue;
    const variables = {
      [KERNEL_VARIABLE]: kernel.vmlinuz,
      [MODULES_VARIABLE]: kernel.modules,
      [BUSYBOX_VARIABLE]: tree.program('busybox'),
      ...image.variables,
      ...passedOn(),
      [ROWS_VARIABLE]: `${SHARE_IN_GUEST}/${ROWS_FILE}`,
    };
    const script =
      values.run === undefined ? jestScript(ROOT, suitesOf(name), variables) : shellScript(ROOT, values.run, variables);
    process.stdout.write(`kernel: booting ${name}\n`);
    const result = await bootAndRun(tree, image, script, Number(values.timeout) * 1000);
    if (values.keep !== undefined) keepFiles(result, values.keep);
    report(name, result);
  }
} catch (error) {
  process.stdout.write(`kernel: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}

/** The variables of this process that are for the suites. */
function passedOn(): Record<string, string> {
  const values = [MOVES_VARIABLE, TRACE_VARIABLE].map((name) => [name, process.env[name]] as const);
  return Object.fromEntries(values.filter((entry): entry is [string, string] => entry[1] !== undefined));
}

/** The machines that were asked for: those with a suite that matches. */
function machines(): readonly MachineName[] {
  if (values.machine !== undefined) {
    if (!isMachine(values.machine)) {
      throw new Error(`there is no machine ${values.machine}; there are ${MACHINE_NAMES.join(', ')}`);
    }
    return [values.machine];
  }
  if (values.run !== undefined) return ['stock'];
  const names = MACHINE_NAMES.filter((name) => suitesOf(name).length > 0);
  if (names.length === 0) throw new Error(`no test file matches ${positionals.join(' or ')}`);
  return names;
}

/** The test files of a machine that match, as paths in the repository. */
function suitesOf(machine: MachineName): string[] {
  return suiteFolders(machine)
    .map((folder) => join('test/dist/kernel', folder))
    .flatMap((folder) => readdirSync(join(ROOT, folder)).map((name) => join(folder, name)))
    .filter((path) => path.endsWith('.test.js'))
    .filter((path) => positionals.length === 0 || positionals.some((pattern) => new RegExp(pattern).test(path)));
}

function keepFiles({ files }: BootResult, folder: string): void {
  mkdirSync(folder, { recursive: true });
  for (const [name, text] of files) if (!OF_THE_HARNESS.has(name)) writeFileSync(join(folder, name), text);
}

function report(name: string, result: BootResult): void {
  const tally = process.env['TALLY_FILE'];
  const rows = result.files.get(ROWS_FILE);
  if (rows !== undefined) {
    const text = rowTable(rows).map((line) => `  ${line}\n`);
    process.stdout.write(`kernel: what ${name} answers to each row of test/kernel/conformance\n${text.join('')}`);
  }
  if (tally !== undefined && result.tally !== undefined) appendFileSync(tally, result.tally);
  if (result.status === 0) {
    process.stdout.write(`kernel: ${name} is done, ${result.seconds.toFixed(1)} s from power-on\n`);
    return;
  }
  process.exitCode = 1;
  if (result.status !== undefined) {
    process.stdout.write(`kernel: ${name} FAILED, exit status ${result.status}\n`);
    return;
  }
  const why = result.timedOut
    ? `it was still running after ${values.timeout} s`
    : 'the machine stopped before the command ended';
  process.stdout.write(`kernel: ${name} FAILED, ${why}; its console ended with:\n${result.consoleTail.trimEnd()}\n`);
}
