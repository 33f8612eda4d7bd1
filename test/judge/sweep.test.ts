import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';

/** The repository; the tests run compiled, in test/dist/judge. */
const ROOT = join(import.meta.dirname, '..', '..', '..');
const CANNOT_RUN_HERE = 3;
const TIMEOUT_MS = 600_000;

interface Verdict {
  readonly cases: readonly {
    readonly name: string;
    readonly entrants: readonly {
      readonly name: string;
      readonly problems: readonly string[];
      readonly samples: readonly {
        readonly figures: Readonly<
          Record<'totalMs' | 'saidTotalMs' | 'downtimeMs' | 'saidDowntimeMs' | 'pauses', number>
        >;
        readonly wrong?: string;
      }[];
    }[];
  }[];
}

function bench(...args: string[]) {
  return spawnSync(process.execPath, [join(ROOT, 'bench/dist/cli.js'), 'qemu', ...args], {
    encoding: 'utf8',
    timeout: TIMEOUT_MS,
  });
}

// Downloads QEMU if it is not in the cache yet.
const prepared = bench('--prepare');
const obstacle =
  prepared.status === CANNOT_RUN_HERE
    ? /cannot run here: (.*)/.exec(prepared.stderr)?.[1]?.replaceAll(/[()]/g, '')
    : undefined;

function testHere(name: string, run: () => void): void {
  if (obstacle === undefined) test(name, run, TIMEOUT_MS);
  else test.skip(`${name} (skipped: ${obstacle})`, run);
}

testHere('QEMU and Godwit move the sweep guest, and its memory is right', () => {
  const { status, stdout, stderr } = bench('sweep', '--rounds', '1', '--json');
  expect({ status, stderr }).toMatchObject({ status: 0 });
  const { cases } = JSON.parse(stdout) as Verdict;
  expect(cases.map(({ name }) => name)).toEqual(['sweep']);
  const entrants = cases[0]?.entrants ?? [];
  expect(entrants.map(({ name }) => name.split(/[ ,]/)[0])).toEqual(['QEMU', 'QEMU', 'Godwit', 'Godwit']);
  for (const { name, problems, samples } of entrants) {
    expect({ name, problems, runs: samples.length }).toEqual({ name, problems: [], runs: 1 });
    const { totalMs, saidTotalMs, downtimeMs, saidDowntimeMs, pauses } = samples[0]?.figures ?? {};
    // Times that are measured from outside must be near the VMM's own; otherwise they measure something else.
    expect(downtimeMs).toBeGreaterThan(0);
    expect(totalMs).toBeGreaterThan(downtimeMs as number);
    expect(Math.abs((totalMs as number) - (saidTotalMs as number))).toBeLessThan(1000);
    expect(Math.abs((downtimeMs as number) - (saidDowntimeMs as number))).toBeLessThan(1000);
    expect(pauses).toBeGreaterThanOrEqual(1);
  }
});

// On a limited link, a round lasts for many of the guest's passes. A round that lasts for one pass would copy a nearly
// consistent memory.
testHere('a dirty log that is never re-armed is noticed', () => {
  const { status, stdout, stderr } = bench('sweep', '--rounds', '1', '--json', '--never-rearm', '--only', 'Godwit');
  expect({ status, stderr }).toMatchObject({ status: 1 });
  const { cases } = JSON.parse(stdout) as Verdict;
  for (const { problems, samples } of cases[0]?.entrants ?? []) {
    expect(problems).toEqual([]);
    expect(samples.map(({ wrong }) => wrong)).toEqual([expect.stringMatching(/of 25344 pages wrong/)]);
  }
  expect(cases[0]?.entrants).toHaveLength(2);
});
