/** Counts a step of .ci/run that cannot run here: `node tools/ci/skip.js NAME REASON`. */
import { appendFileSync } from 'node:fs';
import { join } from 'node:path';

const [name, reason] = process.argv.slice(2);
const skipped = [`${name} (skipped: ${reason})`];
process.stdout.write(`\n== ${name}: skipped: ${reason}\n`);
appendFileSync(
  join(process.env['CI_RESULTS'] ?? '', 'steps.jsonl'),
  `${JSON.stringify({ name, passed: 0, failed: 0, skipped, started: Date.now(), seconds: 0, takes: 0 })}\n`,
);
