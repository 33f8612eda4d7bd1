/** Adds up what the steps of .ci/run counted in $CI_RESULTS; the last line is `N passed, N failed, N skipped`. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const file = join(process.env['CI_RESULTS'] ?? '', 'steps.jsonl');
const steps = existsSync(file)
  ? readFileSync(file, 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line))
      .sort((one, other) => one.started - other.started)
  : [];

process.stdout.write('\n== summary\n');
let passed = 0;
let failed = 0;
/** @type {string[]} */
const skipped = [];
for (const step of steps) {
  passed += step.passed;
  failed += step.failed;
  skipped.push(...step.skipped.map((/** @type {string} */ name) => `${step.name}: ${name}`));
  const counts = `${step.passed} passed, ${step.failed} failed, ${step.skipped.length} skipped`;
  const late = step.seconds > step.takes ? ` (may take ${step.takes})` : '';
  const mark = step.problem === undefined ? '  ' : '✗ ';
  const problem = step.problem === undefined ? '' : `: ${step.problem}`;
  process.stdout.write(`${mark}${step.name}: ${counts}, ${step.seconds.toFixed(1)} s${late}${problem}\n`);
}
for (const step of steps.filter(({ problem }) => problem !== undefined)) {
  process.stdout.write(
    `\n✗ ${step.name}:\n${step.detail.map((/** @type {string} */ line) => `    ${line}\n`).join('')}`,
  );
}
const begun = Number(process.env['CI_STARTED'] ?? Number.NaN);
if (begun > 0) process.stdout.write(`in all ${(Date.now() / 1000 - begun).toFixed(0)} s\n`);
for (const name of skipped) process.stdout.write(`○ skipped  ${name}\n`);
process.stdout.write(`${passed} passed, ${failed} failed, ${skipped.length} skipped\n`);
if (failed > 0 || passed === 0) process.exitCode = 1;
