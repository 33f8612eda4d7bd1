/**
 * One step of .ci/run: `node tools/ci/step.js NAME --takes SECONDS [--timeout SECONDS] [--expect JSON] -- COMMAND...`
 *
 * Runs the command, shows what it prints, and appends what it counted to $CI_RESULTS. A command that runs Jest counts
 * Jest's tests (tools/jest/skip-reporter.js reports them); any other counts as one case. With --expect the last line
 * of JSON on the command's standard output must hold these fields.
 *
 * --takes is what the step may take on two idle cores. The summary says when it took more; a slower machine does not make
 * it fail. After three times that (or --timeout) it is ended with everything it started, and so is one that runs past
 * $CI_DEADLINE (seconds since 1970). Several steps may run at the same time.
 */
import { spawn } from 'node:child_process';
import { appendFileSync, existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs, stripVTControlCharacters } from 'node:util';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { takes: { type: 'string' }, timeout: { type: 'string' }, expect: { type: 'string' } },
});
const [name, command, ...commandArguments] = positionals;
const results = process.env['CI_RESULTS'];
const takes = Number(values.takes);
if (name === undefined || command === undefined || results === undefined || !(takes > 0)) {
  throw new Error('usage: CI_RESULTS=FOLDER node tools/ci/step.js NAME --takes S [--timeout S] [--expect JSON] -- ...');
}

const started = Date.now();
const deadline = Number(process.env['CI_DEADLINE'] ?? Number.POSITIVE_INFINITY) * 1000;
/** The least timeout is 300 s, since machines differ, and a short step may wait long for a disk or a download. */
const timeout = Number(values.timeout ?? Math.max(300, 3 * takes));
const limit = Math.min(timeout * 1000, deadline - started);
const tally = join(results, `tally-${process.pid}.jsonl`);
/** The number of lines that the summary shows of a failed step, whose log may be far above, or not kept. */
const DETAIL_LINES = 30;
/** The end of the command's output (standard output and standard error), without colours. */
let printed = '';
rmSync(tally, { force: true });

process.stdout.write(`\n== ${name}: ${[command, ...commandArguments].join(' ')}\n`);
const problem = limit > 0 ? await run(command, commandArguments) : 'there was no time left to start it';
const detail = problem === undefined ? undefined : detailOf(printed);
const seconds = (Date.now() - started) / 1000;
const counts = { name, ...countCases(problem !== undefined), problem, detail, started, seconds, takes };
appendFileSync(join(results, 'steps.jsonl'), `${JSON.stringify(counts)}\n`);
process.stdout.write(`== ${name}: ${problem ?? 'ok'} (${seconds.toFixed(1)} s)\n`);
if (problem !== undefined) process.exitCode = 1;

/**
 * Runs a command in a process group of its own and resolves with what went wrong, if anything did.
 * @param {string} file
 * @param {string[]} args
 * @returns {Promise<string | undefined>}
 */
function run(file, args) {
  return new Promise((resolve) => {
    const child = spawn(file, args, {
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, TALLY_FILE: tally },
    });
    let tail = '';
    let timedOut = false;
    let leftBehind = false;
    const end = (/** @type {NodeJS.Signals} */ signal) => {
      try {
        if (child.pid !== undefined) process.kill(-child.pid, signal);
      } catch {
        // The whole group is gone already.
      }
    };
    const timer = setTimeout(() => {
      timedOut = true;
      end('SIGTERM');
      setTimeout(end, 10_000, 'SIGKILL').unref();
    }, limit);
    // The command has a process group of its own, so that an interruption of .ci/run does not reach it.
    for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) {
      process.once(signal, () => {
        end('SIGKILL');
        process.kill(process.pid, signal);
      });
    }
    child.stdout.on('data', (chunk) => {
      process.stdout.write(chunk);
      tail = (tail + chunk).slice(-65_536);
      keep(chunk);
    });
    child.stderr.on('data', (chunk) => {
      process.stderr.write(chunk);
      keep(chunk);
    });
    child.on('error', (error) => {
      clearTimeout(timer);
      resolve(error.message);
    });
    child.on('exit', () => {
      // A process that still holds the standard output five seconds later was left behind by the command.
      setTimeout(() => {
        leftBehind = true;
        end('SIGKILL');
      }, 5000).unref();
    });
    child.on('close', (status, signal) => {
      clearTimeout(timer);
      if (timedOut) resolve(`still running after ${(limit / 1000).toFixed(0)} s`);
      else if (leftBehind) resolve('it ended, but a process that it started did not');
      else if (status !== 0) resolve(signal === null ? `exit status ${status}` : `ended by ${signal}`);
      else resolve(values.expect === undefined ? undefined : unexpected(tail, JSON.parse(values.expect)));
    });
  });
}

/** @param {Buffer} chunk */
function keep(chunk) {
  printed = (printed + stripVTControlCharacters(chunk.toString())).slice(-1_000_000);
}

/**
 * The output from the first failed test on, or else its end.
 * @param {string} text
 */
function detailOf(text) {
  const lines = text.trimEnd().split('\n');
  const failed = lines.findIndex((line) => /^\s*● /.test(line));
  return failed === -1 ? lines.slice(-DETAIL_LINES) : lines.slice(failed, failed + DETAIL_LINES);
}

/**
 * Compares the last line of JSON in `output` with the fields that it must hold.
 * @param {string} output
 * @param {Record<string, unknown>} expected
 */
function unexpected(output, expected) {
  const line = output
    .trimEnd()
    .split('\n')
    .findLast((text) => text.startsWith('{'));
  if (line === undefined) return 'it printed no line of JSON';
  const got = JSON.parse(line);
  const wrong = Object.entries(expected).filter(([key, value]) => got[key] !== value);
  return wrong.length === 0 ? undefined : `expected ${values.expect}, the last line was ${line}`;
}

/** @param {boolean} failed */
function countCases(failed) {
  const runs = existsSync(tally)
    ? readFileSync(tally, 'utf8')
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line))
    : [];
  if (runs.length === 0) return { passed: failed ? 0 : 1, failed: failed ? 1 : 0, skipped: [] };
  const total = {
    passed: runs.reduce((sum, { passed }) => sum + passed, 0),
    failed: runs.reduce((sum, { failed: count }) => sum + count, 0),
    skipped: runs.flatMap(({ skipped }) => skipped),
  };
  // A command that failed without a failed test counts as one failure.
  if (failed && total.failed === 0) total.failed = 1;
  return total;
}
