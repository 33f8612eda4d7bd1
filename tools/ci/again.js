/**
 * `node tools/ci/again.js COMMAND...`: runs a command, and once more if it fails. For a command that looks at times in a machine which
 * another one may keep waiting. What the first run has counted does not count then.
 */
import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';

const [command, ...commandArguments] = process.argv.slice(2);
if (command === undefined) throw new Error('usage: node tools/ci/again.js COMMAND...');

const run = () => spawnSync(command, commandArguments, { stdio: 'inherit' }).status ?? 1;
let status = run();
if (status !== 0) {
  process.stdout.write(`\n== it failed with ${status}; once more\n`);
  const tally = process.env['TALLY_FILE'];
  if (tally !== undefined) rmSync(tally, { force: true });
  status = run();
}
process.exitCode = status;
