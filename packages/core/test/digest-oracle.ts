import { digestPages, digestWords } from '@godwit/core/pages';
import { expect } from '@jest/globals';
import fc from 'fast-check';

/** The digests by `digestWords`, page by page. */
function onePageAtATime(bytes: Uint8Array, pageSize: number): Uint32Array {
  const words = new Int32Array(bytes.slice().buffer);
  const digests = new Uint32Array((bytes.length / pageSize) * 2);
  for (let page = 0; page * pageSize < bytes.length; page++) {
    digestWords(words, (page * pageSize) / 4, pageSize / 4, digests, page * 2);
  }
  return digests;
}

/** A run of pages somewhere in a larger memory, and a place in an array of digests. */
const places = fc.record({
  pageSize: fc.constantFrom(16, 64, 512, 4096, 16_384, 65_536),
  pages: fc.oneof(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 10, max: 90 })),
  at: fc.nat(40),
  first: fc.nat(5),
  shared: fc.boolean(),
  seed: fc.integer(),
});

/** Fills memory with something that is different everywhere. */
function fill(bytes: Uint8Array, seed: number): void {
  let state = seed | 1;
  for (let i = 0; i < bytes.length; i++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
    bytes[i] = state >>> 24;
  }
}

/** Checks that the digests of many pages at once are those of each page, whatever the sizes and the places. */
export function sameAsPageByPage(): void {
  fc.assert(
    fc.property(places, ({ pageSize, pages, at, first, shared, seed }) => {
      const byteLength = pages * pageSize;
      fc.pre(byteLength <= 2 ** 20);
      const size = at + byteLength + 8;
      const memory = new Uint8Array(shared ? new SharedArrayBuffer(size) : new ArrayBuffer(size));
      fill(memory, seed);
      const into = new Uint32Array(first + 2 * pages + 3).fill(7);
      digestPages(memory, at, byteLength, pageSize, into, first);
      const expected = onePageAtATime(memory.slice(at, at + byteLength), pageSize);
      expect(into.slice(first, first + 2 * pages)).toEqual(expected);
      expect([...into.slice(0, first), ...into.slice(first + 2 * pages)].every((word) => word === 7)).toBe(true);
    }),
    { numRuns: 300 },
  );
}
