/**
 * `npm run test:kernel -- [--machine NAME] [--prepare] [--run COMMAND] [--timeout SECONDS] [PATTERN...]`
 *
 * Boots the kernels that the suites of this folder need, runs the suites inside, and counts their tests like any other
 * Jest run. A machine's suites are in the folder of its name. With patterns, only the test files whose path matches one;
 * `--machine` keeps to one machine. `--prepare` downloads and builds what is not cached yet, and boots nothing; `--run`
 * runs a shell command inside instead of the suites, in the project's folder.
 */
import { appendFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import {
  BUSYBOX_VARIABLE,
  KERNEL_VARIABLE,
  MODULES_VARIABLE,
  MOVES_VARIABLE,
  TRACE_VARIABLE,
} from './guest/linux-files.js';
import { type DebianTree, debianTree } from './harness/debian-packages.js';
import { jestScript, shellScript } from './harness/guest-script.js';
import { iommufdImage } from './harness/iommufd-image.js';
import { nestedImage } from './harness/nested-image.js';
import { stockImage } from './harness/stock-image.js';
import { type BootImage, type BootResult, bootAndRun } from './harness/test-machine.js';

/** The repository; this file runs compiled, in test/dist/kernel. */
const ROOT = join(import.meta.dirname, '..', '..', '..');
const MODULE_SOURCES = join(ROOT, 'test/kernel/module');

const MACHINES: Readonly<Record<string, (tree: DebianTree) => Promise<BootImage>>> = {
  /** Debian's kernel, with an IOMMU, PCI devices behind it, and KVM. */
  stock: (tree) => stockImage(tree, MODULE_SOURCES),
  /** A small kernel with KVM, for guests of its own, which have the same kernel. */
  nested: (tree) => nestedImage(tree, ROOT),
  /** The same machine, for guests with Debian's kernel: these take long. */
  distribution: (tree) => nestedImage(tree, ROOT),
  /** A kernel of our configuration, for what Debian's does not have. */
  iommufd: (tree) => iommufdImage(tree, MODULE_SOURCES, join(ROOT, 'test/kernel/harness/iommufd-kernel.config')),
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    machine: { type: 'string' },
    prepare: { type: 'boolean', default: false },
    run: { type: 'string' },
    timeout: { type: 'string', default: '1500' },
  },
});

try {
  const names = machines();
  const tree = await debianTree();
  for (const name of names) {
    const image = await (MACHINES[name] as (tree: DebianTree) => Promise<BootImage>)(tree);
    if (values.prepare) continue;
    const variables = {
      [KERNEL_VARIABLE]: tree.vmlinuz,
      [MODULES_VARIABLE]: tree.modules,
      [BUSYBOX_VARIABLE]: tree.program('busybox'),
      ...image.variables,
      ...passedOn(),
    };
    const script =
      values.run === undefined ? jestScript(ROOT, suitesOf(name), variables) : shellScript(ROOT, values.run, variables);
    process.stdout.write(`kernel: booting ${name}\n`);
    report(name, await bootAndRun(tree, image, script, Number(values.timeout) * 1000));
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
function machines(): string[] {
  if (values.machine !== undefined) {
    if (MACHINES[values.machine] === undefined) {
      throw new Error(`there is no machine ${values.machine}; there are ${Object.keys(MACHINES).join(' and ')}`);
    }
    return [values.machine];
  }
  if (values.run !== undefined) return ['stock'];
  const names = Object.keys(MACHINES).filter((name) => suitesOf(name).length > 0);
  if (names.length === 0) throw new Error(`no test file matches ${positionals.join(' or ')}`);
  return names;
}

/** The test files of a machine that match, as paths in the repository. */
function suitesOf(machine: string): string[] {
  const folder = join('test/dist/kernel', machine);
  return readdirSync(join(ROOT, folder))
    .filter((name) => name.endsWith('.test.js'))
    .map((name) => join(folder, name))
    .filter((path) => positionals.length === 0 || positionals.some((pattern) => new RegExp(pattern).test(path)));
}

function report(name: string, result: BootResult): void {
  const tally = process.env['TALLY_FILE'];
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
