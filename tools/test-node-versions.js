/**
 * Runs the built tests, a short demo and a simulation under every Node version that Godwit supports, one line a version. The
 * simulation has to print the same bytes as under the version that runs this. The binaries are those of the `node` package on
 * npm and are kept in .cache/node. With --others the version that runs this is left out, if it is exactly one of them, and one
 * of the others, which PROPERTY_SEED chooses, runs every second file of the tests that can differ between versions
 * (node-versions-scope.js): for .ci/run, where all that is here has been run under it by then, and where every commit has a seed of its own.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { delimiter, join, relative, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { rowOf } from './node-versions-scope.js';

const VERSIONS = ['20', '22', '24'];

const root = resolve(import.meta.dirname, '..');
const cache = join(root, '.cache', 'node');
const { values } = parseArgs({ options: { others: { type: 'boolean', default: false } } });
const outerTally = process.env['TALLY_FILE'];

const seed = Number(process.env['PROPERTY_SEED'] ?? Date.now());
/** Which of the other versions runs tests, counted from 0. */
const turn = seed % (VERSIONS.length - 1);
/** Which of every two test files it runs. */
const half = Math.floor(seed / (VERSIONS.length - 1)) % 2;
/** The test files of each version, for Jest; empty for all. */
const chosen = values.others ? ['--', '--runTestsByPath', ...differing().filter((_, index) => index % 2 === half)] : [];
let others = 0;

/** A link that changes, with jitter, on several channels, and a guest that never converges. */
const SIMULATION =
  '--memory 2G --dirty-rate 900MB/s --workload hot --link 4G --jitter 2ms --channels 3 --link-changes 2s=8G,4s=4G --link-cuts 3s+300ms --stop-after 20s --json';
const simulated = simulate(process.env);

for (const version of VERSIONS) {
  const started = Date.now();
  const binaries = install(version);
  const environment = { ...process.env, PATH: `${binaries}${delimiter}${process.env['PATH']}` };
  const exact = execFileSync('node', ['--version'], { env: environment, encoding: 'utf8' }).trim();
  if (values.others && exact === process.version) {
    process.stdout.write(`Node ${exact}: left out, it runs this\n`);
    continue;
  }

  const tested = !values.others || others++ === turn;
  const counts = tested ? runTests(version, environment) : { passed: 0, failed: 0, skipped: [] };

  const demo = spawnSync(
    'node',
    ['examples/node-vmm/dist/demo/cli.js', ...'--json --no-kvm --memory 64M --settle 1'.split(' ')],
    {
      cwd: root,
      env: environment,
      encoding: 'utf8',
      timeout: 120_000,
    },
  );
  if (demo.status === 0) counts.passed++;
  else {
    counts.failed++;
    process.stdout.write(
      `the demo under Node ${exact} ended with ${demo.status ?? demo.signal}:\n${demo.stdout}${demo.stderr}\n`,
    );
  }

  if (simulated.startsWith('{') && simulate(environment) === simulated) counts.passed++;
  else {
    counts.failed++;
    process.stdout.write(`the simulation under Node ${exact} prints other bytes than under ${process.version}\n`);
  }

  const seconds = ((Date.now() - started) / 1000).toFixed(0);
  const summary = `${counts.passed} passed, ${counts.failed} failed, ${counts.skipped.length} skipped`;
  const scope = tested ? '' : 'the demo and the simulation only; ';
  process.stdout.write(
    `Node ${exact}: ${summary} (${scope}${seconds} s; the demo ${demo.status === 0 ? 'verified' : 'failed'})\n`,
  );
  if (counts.failed > 0) process.exitCode = 1;
  if (outerTally !== undefined) {
    const skipped = counts.skipped.map((/** @type {string} */ name) => `Node ${exact}: ${name}`);
    appendFileSync(outerTally, `${JSON.stringify({ ...counts, skipped })}\n`);
  }
}

/**
 * Runs the tests under a version of Node, and returns their counts.
 * @param {string} version
 * @param {NodeJS.ProcessEnv} env
 * @returns {{ passed: number, failed: number, skipped: string[] }}
 */
function runTests(version, env) {
  const tallyFile = join(cache, `${version}.jsonl`);
  rmSync(tallyFile, { force: true });
  const tests = spawnSync('npm', ['run', '--silent', 'jest', ...chosen], {
    cwd: root,
    env: { ...env, TALLY_FILE: tallyFile },
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  });
  const counts = existsSync(tallyFile)
    ? JSON.parse(readFileSync(tallyFile, 'utf8'))
    : { passed: 0, failed: 1, skipped: [] };
  if (tests.status !== 0 && counts.failed === 0) counts.failed = 1;
  if (tests.status !== 0) process.stdout.write(`${tests.stdout}${tests.stderr}\n`);
  return counts;
}

/** The test files that can differ between versions of Node, by their paths from the root. */
function differing() {
  const list = execFileSync('npm', ['run', '--silent', 'jest', '--', '--listTests', '--json'], {
    cwd: root,
    encoding: 'utf8',
  });
  const files = /** @type {string[]} */ (JSON.parse(list)).map((file) => relative(root, file));
  return files.filter((file) => rowOf(file)?.runs !== false).sort();
}

/**
 * The output of `godwit simulate` under the `node` of an environment.
 * @param {NodeJS.ProcessEnv} env
 */
function simulate(env) {
  const run = spawnSync('node', ['packages/godwit/dist/cli.js', 'simulate', ...SIMULATION.split(' ')], {
    cwd: root,
    env,
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  });
  return run.status === null || run.status > 1 ? `failed: ${run.signal ?? run.stderr}` : run.stdout;
}

/**
 * Puts a Node version into the cache and returns the folder that holds its `node`.
 *
 * The package `node` fetches its binary in an install script, which npm 11 does not run; the binary itself is an
 * ordinary package, one for each platform.
 * @param {string} version
 */
function install(version) {
  const folder = join(cache, version);
  const name = `node-${process.platform}-${process.arch}`;
  const binary = join(folder, 'node_modules', name, 'bin', 'node');
  if (!existsSync(binary)) {
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, 'package.json'), '{ "private": true }\n');
    execFileSync('npm', ['install', '--no-audit', '--no-fund', '--ignore-scripts', `${name}@${version}`], {
      cwd: folder,
      stdio: ['ignore', 'ignore', 'inherit'],
    });
  }
  // Only `node` itself is put before PATH, so that npm stays the installed one.
  const binaries = join(folder, 'path');
  mkdirSync(binaries, { recursive: true });
  if (!existsSync(join(binaries, 'node'))) symlinkSync(binary, join(binaries, 'node'));
  return binaries;
}
