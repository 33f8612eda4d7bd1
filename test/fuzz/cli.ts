import { readFileSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { decoderTarget } from './decoder-target.js';
import { destinationBytesTarget, destinationFramesTarget } from './destination-target.js';
import type { FuzzTarget } from './fuzz-target.js';
import { attempt, Finding, fuzz } from './fuzzer.js';
import { sourceTarget } from './source-target.js';

/** Each target's share of all inputs. A migration costs about a hundred times what a frame does. */
const TARGETS: readonly { readonly target: FuzzTarget; readonly share: number }[] = [
  { target: decoderTarget, share: 0.7 },
  { target: destinationBytesTarget, share: 0.1 },
  { target: destinationFramesTarget, share: 0.1 },
  { target: sourceTarget, share: 0.1 },
];

const USAGE = `npm run fuzz -- [--inputs N] [--seed N] [--target NAME] [--replay FILE]
  --inputs  how many in all (default 1,000,000)
  --seed    where the random numbers start (default 1)
  --target  only ${TARGETS.map(({ target }) => target.name).join(', ')}
  --replay  runs one input that was written by a run that failed (with --target)
`;

const { values } = parseArgs({
  options: {
    inputs: { type: 'string', default: '1000000' },
    seed: { type: 'string', default: '1' },
    target: { type: 'string' },
    replay: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
});

const chosen = TARGETS.filter(({ target }) => values.target === undefined || target.name === values.target);
const inputs = Number(values.inputs);
const seed = Number(values.seed);
if (values.help || chosen.length === 0 || !Number.isSafeInteger(inputs) || !Number.isSafeInteger(seed)) {
  process.stderr.write(USAGE);
  process.exit(values.help ? 0 : 2);
}

process.on('unhandledRejection', (error) => {
  process.stderr.write(`an error that nobody handled: ${error instanceof Error ? error.stack : String(error)}\n`);
  process.exit(1);
});

try {
  if (values.replay !== undefined) {
    if (chosen.length !== 1) throw new Error('--replay needs --target');
    await attempt((chosen[0] as (typeof TARGETS)[number]).target, readFileSync(values.replay));
    process.stdout.write('nothing was found\n');
  } else {
    await fuzzAll();
  }
} catch (error) {
  if (!(error instanceof Finding)) throw error;
  const file = `fuzz-${error.target}.bin`;
  writeFileSync(file, error.input);
  process.stderr.write(`${error.stack}\n`);
  for (let cause = error.cause; cause instanceof Error; cause = cause.cause) process.stderr.write(`${cause.stack}\n`);
  process.stderr.write(
    `seed ${seed}; the input (${error.input.length} bytes) is in ${file}:\n` +
      `  npm run fuzz -- --target ${error.target} --replay ${file}\n`,
  );
  process.exitCode = 1;
}

async function fuzzAll(): Promise<void> {
  let total = 0;
  const shares = chosen.reduce((sum, { share }) => sum + share, 0);
  for (const { target, share } of chosen) {
    const report = await fuzz(target, Math.ceil((inputs * share) / shares), seed);
    total += report.inputs;
    process.stdout.write(
      `${report.target.padEnd(20)} ${report.inputs} inputs in ${report.seconds.toFixed(1)} s, corpus ${report.corpus}, ` +
        `${report.blocks} blocks of code, resident ${mib(report.residentEarly)} -> ${mib(report.residentEnd)} MiB\n`,
    );
  }
  process.stdout.write(`${total} inputs, seed ${seed}: no crash, nothing written outside RAM, nobody hangs\n`);
}

function mib(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(0);
}
