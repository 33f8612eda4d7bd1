import { LastItems, SampleSeries, ThinnedList } from '@godwit/observe/model';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

const numbers = (count: number) => Array.from({ length: count }, (_, index) => index);

describe('a thinned list', () => {
  test('has the first item and the newest half whole, in order, and never more than it may', () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 40 }), fc.integer({ min: 1, max: 500 }), (most, count) => {
        const list = new ThinnedList<number>(most);
        for (const item of numbers(count)) {
          list.add(item);
          expect(list.all.length).toBeLessThanOrEqual(most);
        }
        expect(list.count).toBe(count);
        expect(list.all[0]).toBe(0);
        expect(list.all).toEqual([...list.all].sort((one, other) => one - other));
        const newest = Math.min(count, Math.floor(most / 2));
        expect(list.all.slice(-newest)).toEqual(numbers(count).slice(-newest));
      }),
    );
  });

  test('changes its revision when items have changed their places, and only then', () => {
    const list = new ThinnedList<number>(4);
    const revisions = numbers(8).map((item) => {
      list.add(item);
      return list.revision;
    });
    expect(revisions).toEqual([0, 0, 0, 0, 1, 2, 3, 4]);
  });
});

test('a list of the last items drops the oldest, and counts them', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 0, max: 300 }), (most, count) => {
      const list = new LastItems<number>(most);
      for (const item of numbers(count)) list.add(item);
      expect(list.all.length).toBeLessThanOrEqual(most);
      expect(list.dropped + list.all.length).toBe(count);
      expect(list.all).toEqual(numbers(count).slice(list.dropped));
    }),
  );
});

describe('a series of samples', () => {
  const sample = (atMs: number, value: number | null) => ({
    ...{ atMs, wire: value, link: value, limit: null, dirty: value, downtime: value, throttle: 0 },
  });
  const steps = fc.array(fc.tuple(fc.integer({ min: 0, max: 400 }), fc.integer({ min: 0, max: 1000 })), {
    minLength: 1,
    maxLength: 400,
  });

  test('is bounded, covers the whole time, and stays between the least and the most of what came', () => {
    fc.assert(
      fc.property(fc.integer({ min: 4, max: 50 }), steps, (most, given) => {
        const series = new SampleSeries(most);
        let atMs = 0;
        for (const [wait, value] of given) {
          atMs += wait;
          series.add(sample(atMs, value));
          expect(series.length).toBeLessThanOrEqual(most);
        }
        const { columns } = series;
        for (const column of Object.values(columns)) expect(column.length).toBe(series.length);
        expect(columns.atMs).toEqual([...columns.atMs].sort((one, other) => one - other));
        expect(columns.atMs.at(-1)).toBe(atMs);
        const values = given.map(([, value]) => value);
        for (const mean of columns.wire) {
          expect(mean).toBeGreaterThanOrEqual(Math.min(...values) - 1e-9);
          expect(mean).toBeLessThanOrEqual(Math.max(...values) + 1e-9);
        }
        expect(columns.downtime.at(-1)).toBe(values.at(-1));
      }),
    );
  });

  test('keeps every sample that is far enough from the one before, while there is room', () => {
    const series = new SampleSeries(100);
    for (const index of numbers(100)) series.add(sample(index * 50, index));
    expect(series.columns.wire).toEqual(numbers(100));
    expect(series.revision).toBe(0);
    series.add(sample(5000, 100));
    expect(series.columns.wire).toEqual([0, ...numbers(50).map((index) => 2 * index + 1.5)]);
    expect(series.columns.downtime.slice(0, 3)).toEqual([0, 2, 4]);
    expect(series.revision).toBe(1);
  });

  test('averages what comes close together, and does not count what is not known', () => {
    const series = new SampleSeries(100);
    for (const [atMs, value] of [
      [0, 4],
      [60, 10],
      [70, 20],
      [80, null],
      [90, 60],
    ] as const)
      series.add(sample(atMs, value));
    expect(series.columns.atMs).toEqual([0, 90]);
    expect(series.columns.wire).toEqual([4, 30]);
    expect(series.columns.link).toEqual([4, 60]);
  });
});
