import { engineParts } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

const { guess, scaled, sumOf, times, Samples } = engineParts;

const estimates = fc.array(
  fc
    .tuple(
      fc.double({ min: 0, max: 1e6, noNaN: true }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      fc.double({ min: 1, max: 9, noNaN: true }),
    )
    .map(([ms, low, high]) => guess(ms, ms * low, ms * high)),
  { minLength: 1, maxLength: 8 },
);

describe('a sum of times', () => {
  test('has the sum of the points, and ends between it and the sums of the ends', () => {
    fc.assert(
      fc.property(estimates, (terms) => {
        const sum = sumOf(terms);
        const add = (pick: (one: engineParts.Estimate) => number) => terms.reduce((all, one) => all + pick(one), 0);
        const slack = 1e-9 * add(({ highMs }) => highMs) + 1e-9;
        expect(Math.abs(sum.ms - add(({ ms }) => ms))).toBeLessThanOrEqual(slack);
        expect(sum.lowMs).toBeGreaterThanOrEqual(add(({ lowMs }) => lowMs) - slack);
        expect(sum.lowMs).toBeLessThanOrEqual(sum.ms + slack);
        expect(sum.highMs).toBeGreaterThanOrEqual(sum.ms - slack);
        expect(sum.highMs).toBeLessThanOrEqual(add(({ highMs }) => highMs) + slack);
      }),
    );
  });

  test('of equal terms has distances that grow with the root of their number', () => {
    const { ms, lowMs, highMs } = sumOf([1, 2, 3, 4].map(() => guess(10, 7, 16)));
    expect([ms, lowMs, highMs]).toEqual([40, 34, 52]);
  });
});

test('a product has distances that add up on a scale of ratios', () => {
  const { ms, lowMs, highMs } = scaled(guess(100, 50, 200), guess(1, 0.5, 2));
  expect(ms).toBe(100);
  expect(lowMs).toBeCloseTo(100 * 2 ** -Math.SQRT2, 6);
  expect(highMs).toBeCloseTo(100 * 2 ** Math.SQRT2, 6);
  expect(times(guess(1, 0.5, 3), 2)).toEqual(guess(2, 1, 6));
  expect(scaled(guess(0, 0, 5), guess(1, 0.5, 2))).toEqual(guess(0, 0, 10));
});

describe('samples', () => {
  test('are nothing before the first, and ignore what is no quantity', () => {
    const samples = new Samples();
    for (const value of [Number.NaN, -1, Number.POSITIVE_INFINITY]) samples.add(value);
    expect(samples.estimate).toBeUndefined();
  });

  test('become narrower as they become more', () => {
    const samples = new Samples();
    const widths: number[] = [];
    for (let i = 0; i < 16; i++) {
      samples.add(10);
      const { ms, lowMs, highMs } = samples.estimate as engineParts.Estimate;
      expect(ms).toBe(10);
      widths.push(highMs / lowMs);
    }
    expect(widths[0]).toBeCloseTo(9);
    expect(widths[3]).toBeCloseTo(2.25);
    expect(widths[15]).toBeCloseTo(1.125 ** 2);
    expect([...widths].sort((a, b) => b - a)).toEqual(widths);
  });

  test('keep the last sixteen, of which one outlier does not move the point', () => {
    const samples = new Samples();
    for (let i = 0; i < 20; i++) samples.add(1000);
    for (let i = 0; i < 15; i++) samples.add(10);
    samples.add(500);
    const { ms, lowMs, highMs } = samples.estimate as engineParts.Estimate;
    expect(samples.count).toBe(16);
    expect([ms, lowMs]).toEqual([10, 10 / 1.125]);
    expect(highMs).toBe(500 * 1.125);
  });

  test('of one distribution, the next one lies inside in about nine cases of ten, from the second on', () => {
    const next = (state: number) => (state * 1_103_515_245 + 12_345) % 2 ** 31;
    let state = 7;
    const lognormal = () => {
      let sum = -6;
      for (let i = 0; i < 12; i++) {
        state = next(state);
        sum += state / 2 ** 31;
      }
      return Math.exp(0.4 * sum);
    };
    for (const known of [2, 4, 8, 16]) {
      let inside = 0;
      for (let i = 0; i < 2000; i++) {
        const samples = new Samples();
        for (let k = 0; k < known; k++) samples.add(lognormal());
        const { lowMs, highMs } = samples.estimate as engineParts.Estimate;
        const value = lognormal();
        if (value >= lowMs && value <= highMs) inside++;
      }
      expect([known, inside / 2000 > 0.85, inside / 2000 < 0.995]).toEqual([known, true, true]);
    }
  });
});
