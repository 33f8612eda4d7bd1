import { afterAll, expect, test } from '@jest/globals';
import { sameAsPageByPage } from './digest-oracle.js';

const name = 'WebAssembly';
const there = Reflect.get(globalThis, name);

afterAll(() => {
  Reflect.set(globalThis, name, there);
});

test('without WebAssembly the digests of many pages are those of each page', () => {
  expect(Reflect.set(globalThis, name, undefined)).toBe(true);
  sameAsPageByPage();
});
