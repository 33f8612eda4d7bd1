/**
 * `npm run test:kernel -- [--machine NAME] [--prepare] [--run COMMAND] [--timeout SECONDS] [PATTERN...]`
 *
 * Boots the kernels that the suites of this folder need, runs the suites inside, and counts their tests like any other
 * Jest run. A machine's suites are in the folder of its name; `newest` has those of `stock` too. With patterns, only the test files whose path matches one;
 * `--machine` keeps to one machine. `--prepare` downloads and builds what is not cached yet, and boots nothing; `--run`
 * runs a shell command inside instead of the suites, in the project's folder.
 */
import { appendFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { BUSYBOX_VARIABLE, KERNEL_VARIABLE, MODULES_VARIABLE } from './guest/linux-files.js';
import { debianImage } from './harness/debian-image.js';
import { type DebianKernel, type DebianTree, debianTree } from './harness/debian-packages.js';
import { jestScript, shellScript } from './harness/guest-script.js';
import { iommufdImage } from './harness/iommufd-image.js';
import { nestedImage } from './harness/nested-image.js';
import { newestKernel } from './harness/newest-kernel.js';
import { type BootImage, type BootResult, bootAndRun } from './harness/test-machine.js';

/** The repository; this file runs compiled, in test/dist/kernel. */
const ROOT = join(import.meta.dirname, '..', '..', '..');
const MODULE_SOURCES = join(ROOT, 'test/kernel/module');

/** What is booted, and the kernel that its suites can boot again inside. */
interface Machine {
  readonly image: BootImage;
  readonly kernel: DebianKernel;
}

const MACHINES: Readonly<Record<string, (tree: DebianTree) => Promise<Machine>>> = {
  /** Debian's kernel, with an IOMMU, PCI devices behind it, and KVM. */
  stock: async (tree) => ({
    kernel: tree,
    image: await debianImage(tree, { kernel: tree, name: 'stock', sources: MODULE_SOURCES }),
  }),
  /** The newest kernel that Debian has, on the same machine. */
  newest: async (tree) => {
    const kernel = await newestKernel();
    return { kernel, image: await debianImage(tree, { kernel, name: 'newest', sources: MODULE_SOURCES }) };
  },
  /** Debian's kernel on one processor, with KVM for guests of its own. */
  nested: async (tree) => ({ kernel: tree, image: await nestedImage(tree) }),
  /** A kernel of our configuration, for what Debian's does not have. */
  iommufd: async (tree) => ({
    kernel: tree,
    image: await iommufdImage(tree, MODULE_SOURCES, join(ROOT, 'test/kernel/harness/iommufd-kernel.config')),
  }),
};

/** The folders of the suites of a machine, where that is not the one of its name. */
const FOLDERS: Readonly<Record<string, readonly string[]>> = { newest: ['stock', 'newest'] };

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
    const { image, kernel } = await (MACHINES[name] as (tree: DebianTree) => Promise<Machine>)(tree);
    if (values.prepare) continue;
    const variables = {
      [KERNEL_VARIABLE]: kernel.vmlinuz,
      [MODULES_VARIABLE]: kernel.modules,
      [BUSYBOX_VARIABLE]: tree.program('busybox'),
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
  return (FOLDERS[machine] ?? [machine])
    .map((folder) => join('test/dist/kernel', folder))
    .flatMap((folder) => readdirSync(join(ROOT, folder)).map((name) => join(folder, name)))
    .filter((path) => path.endsWith('.test.js'))
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
