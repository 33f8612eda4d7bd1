import { describe, expect, test } from '@jest/globals';
import { DistributionCount, spreadOf } from '../../dist/demo/distribution.js';

/** A migration with a downtime, of which loading took a tenth. */
function migration(downtimeMs: number) {
  const term = { predictedMs: 1, rangeMs: [0, 2] as const, actualMs: 1 };
  return {
    downtimeMs,
    downtime: {
      pauseMs: term,
      harvestMs: term,
      ramMs: term,
      deviceMs: term,
      loadMs: { ...term, actualMs: downtimeMs / 10 },
      roundTripMs: term,
      resumeMs: term,
    },
  };
}

describe('the spread of values', () => {
  test.each([
    [[], [0, 0, 0]],
    [[7], [7, 7, 7]],
    [
      [3, 1, 2],
      [2, 3, 3],
    ],
    // Nearest rank: the 50th, the 95th and the 100th of a hundred.
    [Array.from({ length: 100 }, (_, i) => 100 - i), [50, 95, 100]],
    [Array.from({ length: 200 }, (_, i) => i + 1), [100, 190, 200]],
  ])('of %j', (values, [median, p95, max]) => {
    expect(spreadOf(values)).toEqual({ median, p95, max });
  });
});

describe('the distribution of a run', () => {
  test('a downtime above the limit counts as announced by an event of its own migration only', () => {
    const count = new DistributionCount(100);
    for (const event of ['hop', 'switchover-start', 'went-back', 'switchover-start', 'downtime-exceeded']) {
      count.see(event);
    }
    count.migrated(migration(150));
    count.see('prepared');
    count.migrated(migration(200));
    count.see('not-prepared');
    count.migrated(migration(100));
    expect(count.result()).toEqual({
      loadMs: { median: 15, p95: 20, max: 20 },
      downtimeMs: { median: 150, p95: 200, max: 200 },
      downtimeLimitMs: 100,
      overLimit: 2,
      unannounced: 1,
      events: { 'went-back': 1, 'not-prepared': 1, 'downtime-exceeded': 1 },
    });
  });

  test('a run without a migration has no distribution', () => {
    expect(new DistributionCount(50).result()).toMatchObject({ overLimit: 0, loadMs: { max: 0 }, downtimeLimitMs: 50 });
  });
});
