import type { DirtyBitmaps } from '@godwit/core';
import { BufferMemory, engineParts } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import fc from 'fast-check';

const { WorkingSet } = engineParts;
const PAGE = 256;
const PAGES = 200;
const MEMORY = new BufferMemory([{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE }], PAGE);

interface Interval {
  readonly ms: number;
  readonly pages: readonly number[];
}

/** Windows of 2^level intervals side by side, counted with sets. */
function naive(intervals: readonly Interval[], level: number) {
  const length = 2 ** level;
  const windows: { readonly ms: number; readonly pages: number }[] = [];
  for (let at = 0; at + length <= intervals.length; at += length) {
    const inside = intervals.slice(at, at + length);
    windows.push({
      ms: inside.reduce((sum, { ms }) => sum + ms, 0),
      pages: new Set(inside.flatMap(({ pages }) => pages)).size,
    });
  }
  const counts = windows.map(({ pages }) => pages);
  const mean = (numbers: readonly number[]): number => numbers.reduce((sum, one) => sum + one, 0) / numbers.length;
  return {
    windowMs: mean(windows.map(({ ms }) => ms)),
    pages: mean(counts),
    fewest: Math.min(...counts),
    most: Math.max(...counts),
    windows: windows.length,
  };
}

test('windows of each length have the pages of their intervals, each page once', () => {
  const interval = fc.record({ ms: fc.integer({ min: 1, max: 90 }), pages: fc.array(fc.nat(PAGES - 1)) });
  fc.assert(
    fc.property(fc.array(interval, { minLength: 1, maxLength: 40 }), (intervals) => {
      const workingSet = new WorkingSet(MEMORY);
      for (const { ms, pages } of intervals) {
        const bitmaps: DirtyBitmaps = workingSet.take();
        expect(bitmaps.isEmpty()).toBe(true);
        for (const page of pages) bitmaps.at(0).set(page);
        workingSet.add(bitmaps, ms);
      }
      const { points } = workingSet;
      expect(points).toHaveLength(Math.floor(Math.log2(intervals.length)) + 1);
      for (const [level, point] of points.entries()) {
        const { windowMs, pages, ...exact } = naive(intervals, level);
        expect(point).toMatchObject(exact);
        expect(point.windowMs).toBeCloseTo(windowMs, 6);
        expect(point.pages).toBeCloseTo(pages, 6);
      }
    }),
  );
});

test('the bitmaps of many intervals are used again', () => {
  const workingSet = new WorkingSet(MEMORY);
  const made = new Set<DirtyBitmaps>();
  for (let i = 0; i < 1000; i++) {
    const bitmaps = workingSet.take();
    made.add(bitmaps);
    workingSet.add(bitmaps, 1);
  }
  expect(made.size).toBeLessThan(16);
});
