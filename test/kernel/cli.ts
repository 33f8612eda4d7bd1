/**
 * `npm run test:kernel -- [--prepare] [--run COMMAND] [--timeout SECONDS] [PATTERN...]`
 *
 * Boots the kernels that the suites of this folder need, runs the suites inside, and counts their tests like any other
 * Jest run. With a pattern, only the test files whose path matches it. `--prepare` downloads and builds what is not
 * cached yet, and boots nothing; `--run` runs a shell command inside instead of the suites, in the project's folder.
 */
import { appendFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { debianTree } from './harness/debian-packages.js';
import { jestScript, shellScript } from './harness/guest-script.js';
import { stockImage } from './harness/stock-image.js';
import { type BootResult, bootAndRun } from './harness/test-machine.js';

/** The repository; this file runs compiled, in test/dist/kernel. */
const ROOT = join(import.meta.dirname, '..', '..', '..');

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    prepare: { type: 'boolean', default: false },
    run: { type: 'string' },
    timeout: { type: 'string', default: '900' },
  },
});

try {
  const tree = await debianTree();
  const image = await stockImage(tree, join(ROOT, 'test/kernel/module'));
  if (!values.prepare) {
    const script = values.run === undefined ? jestScript(ROOT, positionals) : shellScript(ROOT, values.run);
    const result = await bootAndRun(tree, image, script, Number(values.timeout) * 1000);
    report(result);
  }
} catch (error) {
  process.stdout.write(`kernel: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}

function report(result: BootResult): void {
  const tally = process.env['TALLY_FILE'];
  if (tally !== undefined && result.tally !== undefined) appendFileSync(tally, result.tally);
  if (result.status === 0) {
    process.stdout.write(`kernel: done, ${result.seconds.toFixed(1)} s from power-on\n`);
    return;
  }
  process.exitCode = 1;
  if (result.status !== undefined) {
    process.stdout.write(`kernel: FAILED, exit status ${result.status}\n`);
    return;
  }
  const why = result.timedOut
    ? `still running after ${values.timeout} s`
    : 'the machine stopped before the command ended';
  process.stdout.write(`kernel: FAILED, ${why}; its console ended with:\n${result.consoleTail.trimEnd()}\n`);
}
