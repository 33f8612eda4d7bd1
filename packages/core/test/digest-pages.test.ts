import { engineParts } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import { sameAsPageByPage } from './digest-oracle.js';

const { digestPages, digestsBySimd } = engineParts;

test('the digests of many pages are those of each page', () => {
  sameAsPageByPage();
});

test('this Node computes them by SIMD', () => {
  const pages = new Uint8Array(16 * 4096);
  digestPages(pages, 0, pages.length, 4096, new Uint32Array(32), 0);
  expect(digestsBySimd()).toBe(true);
});

test.each([
  [2 ** 32, 0],
  [2 ** 32, 2 ** 31 - 4096],
  [2 ** 32, 2 ** 32 - 3 * 4096],
  [2 ** 31 + 4096, 2 ** 31 - 2 * 4096],
])('in a buffer of %i bytes, at %i, they are the same', (byteLength, at) => {
  const large = new Uint8Array(new ArrayBuffer(byteLength));
  const small = new Uint8Array(3 * 4096).map((_, i) => i * 7 + (i >> 8));
  large.set(small, at);
  const [there, here] = [new Uint32Array(6), new Uint32Array(6)];
  // One page at a time, all three, and the last two.
  for (let page = 0; page < 3; page++) digestPages(large, at + page * 4096, 4096, 4096, there, 2 * page);
  digestPages(small, 0, small.length, 4096, here, 0);
  expect(there).toEqual(here);
  digestPages(large.subarray(at + 4096), 0, 2 * 4096, 4096, there, 2);
  expect(there).toEqual(here);
});
