import { largestMapping, mappingPieces } from '@godwit/vfio/unstable';
import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { errorOf } from './error-of.js';

const PAGE = 4096;

test('a mapping is kept below INT_MAX pages, which START insists on though a bitmap of 256 MiB would hold one more', () => {
  const largest = largestMapping({ pageSize: PAGE, maximumBitmapBytes: 2 ** 28 });
  expect(largest).toBe((2 ** 31 - 64) * PAGE);
  expect(largest / PAGE).toBeLessThanOrEqual(2 ** 31 - 1);
});

test('pieces are in order, touch, cover everything, and none is too large', () => {
  fc.assert(
    fc.property(fc.nat(1000), fc.integer({ min: 1, max: 300 }), (pages, largest) => {
      const pieces = mappingPieces(pages * PAGE, largest * PAGE);
      let at = 0;
      const fits = pieces.every(({ offset, byteLength }) => {
        const follows = offset === at && byteLength > 0 && byteLength <= largest * PAGE;
        at += byteLength;
        return follows;
      });
      expect(fits).toBe(true);
      expect(at).toBe(pages * PAGE);
    }),
  );
});

test('what makes no sense is refused', async () => {
  for (const [byteLength, largest] of [
    [-1, PAGE],
    [PAGE, 0],
    [Number.NaN, PAGE],
    [2 ** 60, PAGE],
  ] as const) {
    expect((await errorOf(() => mappingPieces(byteLength, largest))).code).toBe('GODWIT_INVALID_ARGUMENT');
  }
});
