import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { godwit } from './godwit-command.js';

let folder: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-simulate-'));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

const simulate = (line: string) => godwit(['simulate', ...line.split(' ')]);

/** Converges in a few rounds. */
const CALM = '--memory 4G --dirty-rate 100M --working-set 1G --link 8G --policy within-downtime-limit';
/** Never does. */
const BUSY = '--memory 1G --dirty-rate 2GB/s --working-set 512M --link 2G --granularity 32K';

test('prints the rounds, and when it converges', async () => {
  const { status, stdout, stderr } = await simulate(CALM);
  expect([status, stderr]).toEqual([0, '']);
  expect(stdout).toMatch(
    /^policy within-downtime-limit\n\nround +owed +sent +time +dirtied +predicted +decision\n1 +4\.0 GiB/,
  );
  expect(stdout).toMatch(
    /\n\d+ paused +\S+ \S+ +\S+ \S+ +\S+ m?s\n\nIt converges: the guest is paused after [\d.]+ s, for [\d.]+ ms/,
  );
});

test('prints what would make it converge, once, behind the policies in one table', async () => {
  const { status, stdout } = await simulate(
    `${BUSY} --policy within-downtime-limit,round-cap,time-budget --time-budget 9s`,
  );
  expect(status).toBe(1);
  expect(stdout).toContain('policy round-cap\n');
  expect(stdout).toMatch(/\npolicy +outcome +total +downtime +rounds +sent +throttle\nwithin-downtime-limit +stopped/);
  expect(stdout).toMatch(/\ntime-budget +moved +(9\.\d|10\.\d|11\.\d) s +[\d.]+ s/);
  const helps = stdout.split('Each of these would make it converge:\n');
  expect(helps).toHaveLength(2);
  expect(helps[1]).toMatch(
    /^ {2}a link of [\d.]+ Gbit\/s .*\n {2}a downtime limit of \d+ ms .*\n {2}a dirty rate of at most .*\n {2}vCPUs held back/,
  );
});

test('prints JSON, the same bytes for the same seed', async () => {
  const line = `${CALM} --jitter 1ms --channels 4 --json`;
  const [one, two, other] = await Promise.all([simulate(line), simulate(line), simulate(`${line} --seed 2`)]);
  expect(two?.stdout).toBe(one?.stdout);
  expect(other?.stdout).not.toBe(one?.stdout);
  expect(JSON.parse(one?.stdout ?? '')).toMatchObject({
    outcome: 'converged',
    seed: 1,
    policy: 'within-downtime-limit',
  });
});

test('goes on as post-copy where it may, and says what comes afterwards', async () => {
  const { status, stdout } = await simulate(`${BUSY} --postcopy --policy hybrid,gentle --time-budget 8s`);
  expect(status).toBe(1);
  expect(stdout).toMatch(/ postcopy\n\nIt converges: the guest is paused after [\d.]+ s, for [\d.]+ ms/);
  expect(stdout).toMatch(
    /Of its memory, \d+ MiB are then missing at the destination, and come within [\d.]+ m?s: the guest waits for \d+ pages/,
  );
  expect(stdout).toMatch(/\npolicy +outcome .* throttle +post-copy\nhybrid +converged .*s\ngentle +failed .* -\n/);
});

test('takes a policy of one’s own from a module', async () => {
  const file = join(folder, 'mine.mjs');
  writeFileSync(
    file,
    "export default ({ outcome }) => outcome.round >= 2 ? { action: 'abort', reason: 'two' } : undefined;",
  );
  const { status, stdout } = await simulate(`${CALM.replace('within-downtime-limit', file)} --downtime-limit 1`);
  expect(status).toBe(1);
  expect(stdout).toContain('GODWIT_NOT_CONVERGING');
});

test('draws SVG with the curve, its axes and the pause', async () => {
  const file = join(folder, 'plot.svg');
  const { status } = await simulate(`${CALM} --plot ${file}`);
  expect(status).toBe(0);
  const svg = readFileSync(file, 'utf8');
  expect(svg).toMatch(/^<svg width="960" height="480"/);
  for (const text of ['Owed RAM over time', 'within-downtime-limit', 'seconds', 'GiB owed'])
    expect(svg).toContain(text);
  expect(svg).toContain('#d33');
});

test('reads a recorded trace', async () => {
  const file = join(folder, 'trace.jsonl');
  writeFileSync(file, '{"ms":500,"firstPage":0,"count":1000}\n{"ms":900,"firstPage":5000,"count":24}\n');
  const { status, stdout } = await simulate(`--memory 1G --link 8G --workload trace:${file} --json`);
  expect(status).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({ dirtiedBytes: 1024 * 4096 });
});

test.each([
  ['--memory 1G --link 25G', 3.125e9],
  ['--memory 1G --link 25Gbit', 3.125e9],
  ['--memory 1G --link 3GB/s', 3e9],
  ['--memory 1G --link 3GiB/s', 3 * 2 ** 30],
])('a link of %s', async (line, bytesPerSecond) => {
  const { rounds } = JSON.parse((await simulate(`${line} --latency 0 --json`)).stdout);
  expect(rounds[0].wireBytes / (rounds[0].totalMs / 1000) / bytesPerSecond).toBeCloseTo(1, 1);
});

describe('what cannot be understood is refused, by its name', () => {
  test.each([
    ['--memory 5X --link 1G', '--memory needs a size such as 512G (GiB) or 512GB, got "5X"'],
    ['--memory 5G', '--link is missing'],
    ['--link 5G', '--memory is missing'],
    ['--memory 5G --link fast', '--link needs a rate such as 25G or 25Gbit (bits per second) or 3GB/s, got "fast"'],
    ['--memory 5G --link 1G --dirty-rate 1x', '--dirty-rate needs a rate such as 2G (GiB/s), 2GB/s or 500000p'],
    ['--memory 5G --link 1G --workload hot', '--dirty-rate is missing'],
    [
      '--memory 5G --link 1G --dirty-rate 1M --workload odd',
      '--workload must be uniform, hot, sweep, phases, bursts or trace:FILE',
    ],
    ['--memory 5G --link 1G --workload trace:/nowhere', 'the trace /nowhere cannot be read'],
    ['--memory 5G --link 1G --policy nope', 'there is no policy "nope"; there are gentle, balanced, urgent'],
    ['--memory 5G --link 1G --policy balancd', 'that export one by default; did you mean "balanced"?'],
    ['--memory 5G --link 1G --policy gentle,round-cpa', 'there is no policy "round-cpa"; there are gentle'],
    ['--memory 5G --link 1G --policy gentle,round-cpa', '; did you mean "round-cap"?'],
    ['--memory 5G --link 1G --dirty-rate 1M --workload unifrom', 'got "unifrom"; did you mean "uniform"?'],
    ['--memory 5G --link 1G --policy hybrid', 'the policy hybrid goes on as post-copy, which takes --postcopy'],
    ['--memory 5G --link 1G --policy ./nowhere.mjs', 'the policy ./nowhere.mjs cannot be loaded'],
    ['--memory 5G --link 1G --zero 2', '--zero needs a share such as 0.3 or 30%, got "2"'],
    [
      '--memory 5G --link 1G --latency soon',
      '--latency needs a time such as 300 (milliseconds), 5s or 2min, got "soon"',
    ],
    ['--memory 5G --link 1G --link-changes 5s', '--link-changes needs TIME=RATE'],
    ['--memory 5G --link 1G --channels 99', 'link.channels of a simulation cannot be 99'],
    ['--memory 5G --link 1G --dirty-rate 1M --working-set 6G', 'does not fit into'],
    ['--memory 5G --link 1G --plot a.png', '--plot draws SVG: the file must end with .svg, got "a.png"'],
    ['--memory 5G --link 1G --odd', 'godwit simulate has no option --odd'],
    ['--memory 5G --link 1G more', 'simulate has options only, got "more"'],
  ])('%s', async (line, message) => {
    const { status, stdout, stderr } = await simulate(line);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr).toContain(`godwit: `);
    expect(stderr).toContain(message);
  });
});

test('--help says everything', async () => {
  const { status, stdout } = await simulate('--help');
  expect(status).toBe(0);
  for (const option of [
    '--memory',
    '--dirty-rate',
    '--working-set',
    '--downtime-limit',
    '--policy',
    '--plot',
    '--seed',
  ]) {
    expect(stdout).toContain(option);
  }
});
