import { engineParts } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

const { ReadAhead } = engineParts;
type Ahead = InstanceType<typeof ReadAhead>;

/** What follows a request: the pages that a guest finds there when it goes on. */
function step(ahead: Ahead, block: number, page: number): { readonly count: number; readonly stride: number } {
  const count = ahead.after(block, page);
  return { count, stride: count === 0 ? 0 : ahead.stride };
}

/** Requests of a guest that goes on by `stride` and waits for nothing that was sent ahead. Returns how many pages followed each. */
function walk(ahead: Ahead, block: number, first: number, stride: number, requests: number): number[] {
  const counts: number[] = [];
  for (let page = first, i = 0; i < requests; i++) {
    const { count, stride: found } = step(ahead, block, page);
    if (count > 0) expect(found).toBe(stride);
    counts.push(count);
    page += stride * (count + 1);
  }
  return counts;
}

describe('reading ahead', () => {
  test.each([1, -1, 2, 7, -13, 64])('follows a stride of %i, twice as far each time that it proves right', (stride) => {
    expect(walk(new ReadAhead(), 0, 100_000, stride, 9)).toEqual([0, 0, 4, 8, 16, 16, 16, 16, 16]);
  });

  test('stops when the guest goes elsewhere, and begins anew there', () => {
    const ahead = new ReadAhead();
    walk(ahead, 0, 0, 1, 6);
    expect(walk(ahead, 0, 50_000, 3, 4)).toEqual([0, 0, 4, 8]);
    expect(walk(ahead, 1, 50_000, 3, 3)).toEqual([0, 0, 4]);
  });

  test('sends nothing for the same page again, nor for steps that are not alike', () => {
    const ahead = new ReadAhead();
    expect([5, 5, 5, 5].map((page) => ahead.after(0, page))).toEqual([0, 0, 0, 0]);
    expect([100, 101, 103, 106, 110].map((page) => ahead.after(1, page))).toEqual([0, 0, 0, 0, 0]);
  });

  test('guesses nothing from requests that are far from each other', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 2 ** 20 }), { maxLength: 60 }), (places) => {
        const ahead = new ReadAhead();
        // Farther apart than a step may be, and never one where another was expected.
        for (const place of places) expect(ahead.after(place % 3, place * 65)).toBe(0);
      }),
      { examples: [[[1, 4, 9, 16]]] },
    );
  });

  test('never sends more than 16 pages, nor by a step of none, whatever is asked for', () => {
    const request = fc.tuple(fc.integer({ min: 0, max: 2 }), fc.integer({ min: 0, max: 400 }));
    fc.assert(
      fc.property(fc.array(request, { maxLength: 200 }), (requests) => {
        const ahead = new ReadAhead();
        for (const [block, page] of requests) {
          const { count, stride } = step(ahead, block, page);
          expect([0, 4, 8, 16]).toContain(count);
          if (count > 0) expect(Math.abs(stride)).toBeGreaterThan(0);
          expect(Math.abs(stride)).toBeLessThanOrEqual(64);
        }
      }),
    );
  });

  test('follows eight sequences at a time, each as if it were alone', () => {
    const sequence = fc.record({ stride: fc.integer({ min: -60, max: 60 }).filter((stride) => stride !== 0) });
    fc.assert(
      fc.property(
        fc.array(sequence, { minLength: 1, maxLength: 8 }),
        fc.array(fc.nat({ max: 7 }), { minLength: 1, maxLength: 120 }),
        (sequences, turns) => {
          const together = new ReadAhead();
          const each = sequences.map(({ stride }, i) => ({
            stride,
            page: (i + 1) * 10_000_000,
            alone: new ReadAhead(),
          }));
          for (const turn of turns) {
            const one = each[turn % each.length] as (typeof each)[number];
            const found = step(together, 0, one.page);
            expect(found).toEqual(step(one.alone, 0, one.page));
            one.page += one.stride * (found.count + 1);
          }
        },
      ),
    );
  });
});
