import { engineParts } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import fc from 'fast-check';

const { UrgentPages } = engineParts;

const ring = (storage = new ArrayBuffer(UrgentPages.storageBytes)) => new UrgentPages(storage);

/** As many as wait at a time. */
const MOST = 1024;

test('pages come out in the order in which they went in', () => {
  fc.assert(
    fc.property(fc.array(fc.oneof(fc.nat(2 ** 30), fc.constant(-1)), { maxLength: 3000 }), (steps) => {
      const pages = ring();
      const model: number[] = [];
      for (const [block, step] of steps.entries()) {
        expect(pages.isEmpty).toBe(model.length === 0);
        if (step === -1) expect(pages.take()?.page).toBe(model.shift());
        else if (pages.put(block, step)) model.push(step);
        else expect(model).toHaveLength(MOST);
      }
    }),
    { numRuns: 60 },
  );
});

test('one that is full takes no more until a page was taken out, however often it goes round', () => {
  const pages = ring();
  for (let i = 0; i < MOST; i++) expect(pages.put(i, i * 2)).toBe(true);
  for (let i = 0; i < 5 * MOST; i++) {
    expect(pages.put(0, 0)).toBe(false);
    expect(pages.take()).toEqual({ block: i, page: i * 2 });
    expect(pages.put(i + MOST, (i + MOST) * 2)).toBe(true);
  }
});

test('its numbers may pass 2^31', () => {
  const storage = new ArrayBuffer(UrgentPages.storageBytes);
  const pages = ring(storage);
  const words = new Int32Array(storage, MOST * 16);
  // As after so many pages: the number of each slot's turn is kept less that of the slot.
  const passed = 2 ** 31 - 1024;
  words[0] = passed;
  words[1] = passed;
  words.fill(passed, 2);
  for (let i = 0; i < 3000; i++) {
    expect(pages.put(1, i)).toBe(true);
    expect(pages.take()).toEqual({ block: 1, page: i });
  }
  expect(pages.take()).toBeUndefined();
});
