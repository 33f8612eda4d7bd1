import { withinDowntimeLimit } from '@godwit/core';
import {
  partsOfCurve,
  Random,
  type Simulation,
  simulate,
  traceFromJsonLines,
  type WorkingSetPart,
  type Workload,
} from '@godwit/core/simulation';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

const PAGE = 4096;
const PAGES = 65_536;

/** Rounds of one second each, in which nothing is sent that matters: what each of `seconds` has dirtied, in pages. */
async function dirtied(workload: Workload, seconds: number): Promise<number[]> {
  const run = await rounds(workload, seconds + 1);
  // The first one is longer: the guest writes from the first harvest on, which is before round 1.
  return run.rounds.slice(1).map(({ newlyDirtyPages }) => newlyDirtyPages);
}

function rounds(workload: Workload, seconds: number): Promise<Simulation> {
  // A link that takes a second there: a round is a second long, whatever it sends.
  return simulate(
    {
      memory: { bytes: PAGES * PAGE },
      workload,
      link: { bytesPerSecond: 1e15, latencyMs: 250 },
      host: { harvestMs: 0, harvestNsPerPage: 0 },
    },
    {
      granularity: PAGE,
      suggestions: false,
      policy: ({ outcome }) =>
        outcome.round >= seconds ? { action: 'abort', reason: 'it has been seen' } : { action: 'continue', reason: '' },
    },
  );
}

test('the generator gives the same numbers on every version of Node', () => {
  const random = new Random(42);
  const drawn = Array.from({ length: 4 }, () => random.bits() >>> 0);
  expect(drawn).toEqual([2837322924, 544945897, 479756282, 3500138142]);
});

describe('a workload', () => {
  test('of random writes dirties fewer pages than it writes', async () => {
    const seen = await dirtied({ kind: 'uniform', rate: { pagesPerSecond: 50_000 }, bytes: 40_000 * PAGE }, 4);
    for (const pages of seen) expect(pages / (40_000 * -Math.expm1(-50_000 / 40_000))).toBeCloseTo(1, 1);
  });

  test('that is sparse dirties as many as it writes', async () => {
    const seen = await dirtied({ kind: 'uniform', rate: 500 * PAGE }, 5);
    const mean = seen.reduce((sum, pages) => sum + pages, 0) / seen.length;
    expect(mean).toBeGreaterThan(430);
    expect(mean).toBeLessThan(570);
  });

  test('with a hot part writes both parts at their rates', async () => {
    const workload = {
      kind: 'hot',
      rate: { pagesPerSecond: 20_000 },
      bytes: 50_000 * PAGE,
      hotBytes: 1000 * PAGE,
    } as const;
    const [second] = (await dirtied(workload, 2)).slice(1);
    // All of the hot part, and 2,000 writes elsewhere.
    expect(second).toBeGreaterThan(2800);
    expect(second).toBeLessThan(3100);
  });

  test('that sweeps dirties what it comes by, and all of its working set at most', async () => {
    const slow = await dirtied(
      { kind: 'sweep', rate: { pagesPerSecond: 1000 }, bytes: 2500 * PAGE, offset: 2 ** 20 },
      5,
    );
    for (const pages of slow) expect(Math.abs(pages - 1000)).toBeLessThanOrEqual(2);
    const fast = await dirtied({ kind: 'sweep', rate: { pagesPerSecond: 30_000 }, bytes: 25_600 * PAGE }, 3);
    for (const pages of fast) expect(pages).toBe(25_600);
  });

  test('of phases has each for its time', async () => {
    const workload: Workload = {
      kind: 'phases',
      repeat: true,
      phases: [
        { lastMs: 2000, workload: { kind: 'idle' } },
        { lastMs: 2000, workload: { kind: 'sweep', rate: 1000 * PAGE } },
      ],
    };
    const seen = await dirtied(workload, 12);
    const busy = seen.map((pages) => Math.round(pages / 500) * 500);
    expect(busy.filter((pages) => pages === 0).length).toBeGreaterThan(2);
    expect(busy.filter((pages) => pages === 1000).length).toBeGreaterThan(2);
    expect(seen.reduce((sum, pages) => sum + pages, 0) / 6000).toBeCloseTo(1, 0);
  });

  test('of bursts writes between them too', async () => {
    const workload: Workload = {
      kind: 'bursts',
      everyMs: 3000,
      lastMs: 1000,
      burst: { kind: 'sweep', rate: 5000 * PAGE },
      between: { kind: 'sweep', rate: 100 * PAGE },
    };
    const seen = await dirtied(workload, 9);
    expect(Math.min(...seen)).toBeGreaterThan(90);
    expect(Math.max(...seen)).toBeGreaterThan(2400);
    expect(seen.reduce((sum, pages) => sum + pages, 0) / 15_600).toBeCloseTo(1, 0);
  });

  test('of a trace writes what was recorded, again if it is told so', async () => {
    const lines = ['{"ms":3000,"firstPage":10,"count":5}', '', '{"ms":4200,"firstPage":0,"count":100}'];
    const writes = [...traceFromJsonLines(lines)];
    const once = await rounds({ kind: 'trace', writes }, 6);
    expect(once.dirtiedBytes).toBe(105 * PAGE);
    const again = await rounds({ kind: 'trace', writes, repeat: true }, 14);
    expect(again.dirtiedBytes / PAGE).toBeGreaterThan(2.5 * 105);
  });

  test('of several has what each would have', async () => {
    const one: Workload = { kind: 'sweep', rate: 1000 * PAGE, bytes: 20_000 * PAGE };
    const two: Workload = { kind: 'sweep', rate: 500 * PAGE, bytes: 20_000 * PAGE, offset: 40_000 * PAGE };
    for (const pages of await dirtied({ kind: 'together', workloads: [one, two] }, 3)) {
      expect(Math.abs(pages - 1500)).toBeLessThanOrEqual(4);
    }
  });
});

describe('a measured working set', () => {
  /** `parts`: pages, and how often each is rewritten. */
  const curveOf = (parts: readonly { bytes: number; everyMs: number }[]) =>
    [50, 100, 200, 400, 800, 1600, 3200].map((windowMs) => ({
      windowMs,
      bytes: parts.reduce((sum, { bytes, everyMs }) => sum + bytes * -Math.expm1(-windowMs / everyMs), 0),
    }));

  test('is met by its parts in every window, and between them', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.record({ bytes: fc.integer({ min: 1e6, max: 1e10 }), everyMs: fc.integer({ min: 20, max: 20_000 }) }),
          { minLength: 1, maxLength: 3 },
        ),
        (parts) => {
          const fitted = partsOfCurve(curveOf(parts));
          for (const windowMs of [50, 150, 700, 3000]) {
            const at = (some: readonly WorkingSetPart[]) =>
              some.reduce((sum, { bytes, everyMs }) => sum + bytes * -Math.expm1(-windowMs / everyMs), 0);
            expect(at(fitted) / at(parts)).toBeGreaterThan(0.97);
            expect(at(fitted) / at(parts)).toBeLessThan(1.03);
          }
        },
      ),
      { numRuns: 40 },
    );
  });

  test('dirties in the simulation what was measured', async () => {
    const points = curveOf([
      { bytes: 2000 * PAGE, everyMs: 100 },
      { bytes: 30_000 * PAGE, everyMs: 5000 },
    ]);
    const seen = await dirtied({ kind: 'curve', points }, 3);
    const expected = 2000 + 30_000 * -Math.expm1(-1 / 5);
    for (const pages of seen) expect(pages / expected).toBeCloseTo(1, 0);
  });

  test('that falls is refused', async () => {
    const points = [
      { windowMs: 100, bytes: 1000 },
      { windowMs: 200, bytes: 900 },
    ];
    expect(() => partsOfCurve(points)).toThrow(
      'a working-set curve needs ascending windows and bytes that do not fall',
    );
  });
});

describe('a trace is refused', () => {
  test.each([
    ['nonsense', 'line 1 of the trace is not JSON'],
    ['{"ms":1}', 'line 1 of the trace needs the numbers "ms", "firstPage" and "count", got {"ms":1}'],
    ['null', 'line 1 of the trace needs the numbers'],
  ])('%s', (line, message) => {
    expect(() => [...traceFromJsonLines([line])]).toThrow(message);
  });

  test.each([
    [
      [
        { ms: 5, firstPage: 0, count: 1 },
        { ms: 4, firstPage: 0, count: 1 },
      ],
      'entry 2 of the trace is at 4 ms, after one at 5 ms',
    ],
    [[{ ms: 5, firstPage: PAGES, count: 1 }], 'entry 1 of the trace writes 1 pages from page 65536 on: not within'],
    [[{ ms: 5, firstPage: 0, count: 0.5 }], 'entry 1 of the trace writes 0.5 pages'],
  ])('%j', async (writes, message) => {
    const simulated = simulate(
      { memory: { bytes: PAGES * PAGE }, workload: { kind: 'trace', writes }, link: { bytesPerSecond: 1e9 } },
      { policy: withinDowntimeLimit },
    );
    await expect(simulated).rejects.toThrow(message);
  });
});
