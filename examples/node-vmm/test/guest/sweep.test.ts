import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import * as guest from '@godwit/example-node-vmm/guest';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

const source = readFileSync(fileURLToPath(new URL('../../guest/sweep.S', import.meta.url)), 'utf8');

describe('the sweep guest', () => {
  test('is a boot sector, with the hash that is recorded', () => {
    const image = guest.sweepBytes();
    expect(image).toHaveLength(512);
    expect(guest.SWEEP_IMAGE_BYTES).toBe(512);
    expect([...image.subarray(510)]).toEqual([0x55, 0xaa]);
    expect(createHash('sha256').update(image).digest('hex')).toBe(guest.SWEEP_IMAGE_SHA256);
    expect(guest.SWEEP_SYMBOLS['_start']).toBe(0x7c00);
  });

  test('sweeps what the assembly says, without options', () => {
    expect(guest.sweepImage()).toEqual(guest.sweepBytes());
    const inSource = (name: string) => new RegExp(`^${name}:\\s+\\.long\\s+(\\w+)`, 'm').exec(source)?.[1];
    expect(Number(inSource('first'))).toBe(guest.DEFAULT_SWEEP.first);
    expect(Number(inSource('end'))).toBe(guest.DEFAULT_SWEEP.end);
    expect(Number(inSource('passes'))).toBe(guest.DEFAULT_SWEEP.passes);
  });

  test('has its parameters where the code reads them, and nothing else is changed', () => {
    const image = guest.sweepImage({ first: 0x20_0000, end: 0x30_1000, passes: 7 });
    const words = new DataView(image.buffer);
    expect([words.getUint32(4, true), words.getUint32(8, true), words.getUint32(12, true)]).toEqual([
      0x20_0000, 0x30_1000, 7,
    ]);
    expect([guest.SWEEP_SYMBOLS['first'], guest.SWEEP_SYMBOLS['begin']]).toEqual([0x7c04, 0x7c10]);
    const changed = [...image.keys()].filter((at) => image[at] !== guest.sweepBytes()[at]);
    expect(changed.every((at) => at >= 4 && at < 16)).toBe(true);
  });

  test.each([
    { first: 0xff000 },
    { first: 2 ** 20 + 1 },
    { end: 2 ** 20 - 4096 },
    { end: 3 * 2 ** 30 + 4096 },
    { first: Number.NaN },
    { passes: -1 },
    { passes: 1.5 },
    { passes: 2 ** 32 },
  ])('is refused for %p', (sweep) => {
    expect(() => guest.sweepImage(sweep)).toThrow(expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT' }));
  });
});

/** The rule in the doc comment of `checkSweep`, tried with every page as the front. */
function isRight(bytes: Uint8Array): boolean {
  const value = bytes[0] as number;
  return Array.from({ length: bytes.length }, (_, i) => i + 1).some((front) =>
    bytes.every((found, page) => found === (page < front ? value : (value + 255) % 256)),
  );
}

/** First bytes as a sweep leaves them, at any moment. */
const swept = fc
  .record({ pages: fc.integer({ min: 1, max: 40 }), value: fc.integer({ min: 0, max: 255 }), front: fc.nat(40) })
  .map(({ pages, value, front }) =>
    Uint8Array.from({ length: pages }, (_, page) => (page <= front ? value : value + 255)),
  );

describe('the check of a sweep', () => {
  test('finds no defect at any moment of a sweep', () => {
    fc.assert(
      fc.property(swept, (bytes) => {
        expect(guest.checkSweep(bytes)).toMatchObject({ wrongCount: 0, wrong: [], value: bytes[0] });
      }),
    );
  });

  test('agrees with the rule on bytes that are nearly right', () => {
    const nearly = fc
      .tuple(swept, fc.array(fc.tuple(fc.nat(39), fc.integer({ min: -2, max: 2 })), { maxLength: 3 }))
      .map(([bytes, changes]) => {
        for (const [page, by] of changes) if (page < bytes.length) bytes[page] = (bytes[page] as number) + by;
        return bytes;
      });
    fc.assert(
      fc.property(nearly, (bytes) => (guest.checkSweep(bytes).wrongCount === 0) === isRight(bytes)),
      { numRuns: 2000 },
    );
  });

  test.each([
    ['one that is stale in the middle', [9, 9, 8, 9, 9, 8, 8], [{ page: 2, expected: 9, found: 8 }]],
    [
      'two neighbours that are stale',
      [9, 9, 8, 8, 9, 9, 9, 9],
      [2, 3].map((page) => ({ page, expected: 9, found: 8 })),
    ],
    ['one behind the front', [0, 0, 255, 255, 254, 255], [{ page: 4, expected: 255, found: 254 }]],
    ['one that ran ahead', [5, 4, 4, 5, 4, 4], [{ page: 3, expected: 4, found: 5 }]],
  ])('names the page: %s', (_, bytes, wrong) => {
    const report = guest.checkSweep(Uint8Array.from(bytes));
    expect(report).toMatchObject({ wrong, wrongCount: wrong.length });
    expect(guest.describeSweep(report)).toContain(`page ${wrong[0]?.page} is ${wrong[0]?.found}`);
  });

  test('lists no more than ten', () => {
    const report = guest.checkSweep(Uint8Array.from({ length: 100 }, (_, i) => (i % 2 === 0 ? 7 : 3)));
    expect(report.wrong).toHaveLength(10);
    expect(report.wrongCount).toBeGreaterThanOrEqual(50);
  });
});
