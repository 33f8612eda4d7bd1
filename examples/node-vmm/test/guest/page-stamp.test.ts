import {
  diagnosePage,
  isPageMidWrite,
  isPageRight,
  PAGE_SIZE,
  type PageIdentity,
  STAMP_SPACING,
  STAMPS,
  writePage,
} from '@godwit/example-node-vmm/guest';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

const WORDS = PAGE_SIZE / 4;
const STAMP_BYTES = 16;

const identities: fc.Arbitrary<PageIdentity> = fc.record({
  page: fc.integer({ min: 1, max: 0xffff_ffff }),
  generation: fc.integer({ min: 1, max: 0xffff_fffe }),
  writer: fc.integer({ min: 0, max: 0xffff }),
});

function written(identity: PageIdentity, wholePage: boolean): Uint32Array {
  const words = new Uint32Array(WORDS);
  writePage(words, 0, identity, wholePage);
  return words;
}

describe('page stamps', () => {
  test('what was written is right, and right only for its own page, generation and writer', () => {
    fc.assert(
      fc.property(identities, fc.boolean(), (identity, whole) => {
        const words = written(identity, whole);
        expect(isPageRight(words, 0, identity, whole)).toBe(true);
        expect(diagnosePage(words, 0, identity, whole)).toBeUndefined();
        expect(diagnosePage(words, 0, { ...identity, page: identity.page - 1 }, whole)?.kind).toBe('misplaced');
        expect(diagnosePage(words, 0, { ...identity, writer: identity.writer ^ 1 }, whole)?.kind).toBe(
          'foreign-writer',
        );
        const later = { ...identity, generation: identity.generation + 1 };
        expect(diagnosePage(words, 0, later, whole)).toMatchObject({ kind: 'stale', found: identity.generation });
        const earlier = { ...identity, generation: identity.generation - 1 };
        expect(diagnosePage(words, 0, earlier, whole)).toMatchObject({ kind: 'table', found: identity.generation });
      }),
    );
  });

  test('a change of any byte of any stamp is noticed as a torn page', () => {
    const byteOffsets = fc
      .tuple(fc.integer({ min: 0, max: STAMPS - 1 }), fc.integer({ min: 0, max: STAMP_BYTES - 1 }))
      .map(([index, byte]) => index * STAMP_SPACING + byte);
    fc.assert(
      fc.property(identities, byteOffsets, fc.integer({ min: 1, max: 255 }), (identity, offset, flip) => {
        const words = written(identity, false);
        const bytes = new Uint8Array(words.buffer);
        bytes[offset] = (bytes[offset] ?? 0) ^ flip;
        expect(isPageRight(words, 0, identity, false)).toBe(false);
        const fault = diagnosePage(words, 0, identity, false);
        expect(fault?.kind).toBe('torn');
        expect(Math.floor((fault?.offset ?? 0) / STAMP_SPACING)).toBe(Math.floor(offset / STAMP_SPACING));
      }),
    );
  });

  test('in whole-page mode a change of any byte of the page is noticed', () => {
    fc.assert(
      fc.property(
        identities,
        fc.integer({ min: 0, max: PAGE_SIZE - 1 }),
        fc.integer({ min: 1, max: 255 }),
        (identity, offset, flip) => {
          const words = written(identity, true);
          const bytes = new Uint8Array(words.buffer);
          bytes[offset] = (bytes[offset] ?? 0) ^ flip;
          expect(diagnosePage(words, 0, identity, true)?.kind).toBe('torn');
        },
      ),
    );
  });

  test('a page torn at any place between two generations is noticed, whichever half is the new one', () => {
    const cuts = fc.integer({ min: 1, max: WORDS / 2 - 1 });
    fc.assert(
      fc.property(identities, cuts, fc.boolean(), (identity, cut, newFirst) => {
        const next = { ...identity, generation: identity.generation + 1 };
        const [first, second] = newFirst ? [next, identity] : [identity, next];
        const torn = written(first, true);
        torn.set(written(second, true).subarray(cut * 2), cut * 2);
        for (const expected of [identity, next]) expect(diagnosePage(torn, 0, expected, true)?.kind).toBe('torn');
        // After a pause the first quadwords are new and the others old, and never the reverse.
        expect(isPageMidWrite(torn, 0, identity, true)).toBe(newFirst);
      }),
    );
  });

  test('stamps that have changed places within a page are noticed', () => {
    const words = written({ page: 7, generation: 3, writer: 1 }, false);
    const spacing = STAMP_SPACING / 4;
    const second = words.slice(spacing, spacing + 4);
    words.copyWithin(spacing, 2 * spacing, 2 * spacing + 4);
    words.set(second, 2 * spacing);
    expect(diagnosePage(words, 0, { page: 7, generation: 3, writer: 1 }, false)?.kind).toBe('torn');
  });

  test.each([false, true])('a page on its way to its next generation, whole page %s', (whole) => {
    const identity = { page: 9, generation: 4, writer: 2 };
    const words = written(identity, whole);
    expect(isPageMidWrite(words, 0, identity, whole)).toBe(true);
    expect(isPageMidWrite(written({ ...identity, generation: 5 }, whole), 0, identity, whole)).toBe(true);
    expect(isPageMidWrite(written({ ...identity, generation: 6 }, whole), 0, identity, whole)).toBe(false);
    expect(isPageMidWrite(written({ ...identity, generation: 3 }, whole), 0, identity, whole)).toBe(false);
  });

  test('a page that was never written must be zero, and one that was must not', () => {
    const never = { page: 5, generation: 0, writer: 0 };
    const words = new Uint32Array(WORDS);
    expect(isPageRight(words, 0, never, true)).toBe(true);
    expect(diagnosePage(words, 0, { ...never, generation: 8 }, true)).toMatchObject({ kind: 'lost', expected: 8 });
    words[500] = 1;
    expect(isPageRight(words, 0, never, false)).toBe(true);
    expect(diagnosePage(words, 0, never, true)).toMatchObject({ kind: 'torn', offset: 2000, expected: 0, found: 1 });
  });

  test('the bytes are those of the format', () => {
    const bytes = new Uint8Array(written({ page: 0x524, generation: 2, writer: 1 }, true).buffer);
    const hex = (from: number, to: number): string => Buffer.from(bytes.subarray(from, to)).toString('hex');
    // 0x524 * 0x9e3779b1 + 2 * 0x85ebca6b + 1 * 0xc2b2ae35, modulo 2^32; each index adds 0x27d4eb2f.
    const base = Number((0x524n * 0x9e3779b1n + 2n * 0x85ebca6bn + 0xc2b2ae35n) & 0xffff_ffffn);
    const word = (value: number): string => Buffer.from(Uint32Array.of(value).buffer).toString('hex');
    expect(hex(0, 16)).toBe(`0200000024050000${word(1)}${word(base)}`);
    expect(hex(816, 832)).toBe(`0200000024050000${word(0x10001)}${word(base + 0x27d4eb2f)}`);
    expect(hex(16, 24)).toBe(`${word(0x60001)}${word(base + Math.imul(6, 0x27d4eb2f))}`);
  });
});
