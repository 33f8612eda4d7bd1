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
