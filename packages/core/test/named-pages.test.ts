import { DirtyBitmap, DirtyBitmaps, type NamedPages, PageRunList, systemClock } from '@godwit/core';
import { MOST_WORDS } from '@godwit/core/pages';
import { BufferMemory, engineParts, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { filledVm, PAGE, start, type Toy } from './toy-migration.js';

const { addNamedBits, addNamedPages, namedPages } = engineParts;
const PIECE = MOST_WORDS * 32;

async function piecesOf(bitmap: DirtyBitmap, asBits = true): Promise<NamedPages[]> {
  const pieces: NamedPages[] = [];
  for await (const piece of namedPages(bitmap, asBits, new VirtualClock())) pieces.push(piece);
  return pieces;
}

/** The pages of pieces, by the words of the wire format alone. */
function pagesIn(pieces: readonly NamedPages[]): number[] {
  return pieces.flatMap(({ runs, firstPage = 0, words = [] }) => {
    const pages: number[] = [];
    for (let i = 0; i < runs.length; i += 2) {
      for (let page = 0; page < (runs[i + 1] as number); page++) pages.push((runs[i] as number) + page);
    }
    for (const [i, word] of words.entries()) {
      for (let bit = 0; bit < 32; bit++) if ((word & (1 << bit)) !== 0) pages.push(firstPage + i * 32 + bit);
    }
    return pages;
  });
}

function bitmapOf(pageCount: number, pages: readonly number[]): DirtyBitmap {
  const bitmap = new DirtyBitmap(pageCount);
  for (const page of pages) bitmap.set(page);
  return bitmap;
}

const size = (value: number) => (value < 128 ? 1 : value < 256 ? 2 : value < 65_536 ? 3 : value < 2 ** 32 ? 5 : 9);
const bytesOf = (pieces: readonly NamedPages[]) =>
  pieces.reduce(
    (sum, { runs, words = [] }) => sum + [...runs, ...words].reduce((all, value) => all + size(value), 0),
    0,
  );

/** Pages in clusters near the borders of words and pieces. */
const anyPages = fc
  .array(
    fc.tuple(
      fc.constantFrom(0, 31, 64, PIECE - 3, PIECE, 2 * PIECE - 40, 2 * PIECE + 5),
      fc.array(fc.integer({ min: 0, max: 70 }), { maxLength: 40 }),
    ),
    { maxLength: 6 },
  )
  .map((clusters) =>
    [...new Set(clusters.flatMap(([at, near]) => near.map((page) => at + page)))].sort((a, b) => a - b),
  );

describe('naming the pages of a bitmap', () => {
  test('names each page once, in order, in frames that pass the check', async () => {
    await fc.assert(
      fc.asyncProperty(anyPages, fc.integer({ min: 0, max: 100 }), fc.boolean(), async (pages, more, asBits) => {
        const bitmap = bitmapOf(2 * PIECE + 76 + more, pages);
        const pieces = await piecesOf(bitmap, asBits);
        expect(pagesIn(pieces)).toEqual(pages);
        const back = new DirtyBitmap(bitmap.pageCount);
        for (const piece of pieces) {
          if (piece.words === undefined) {
            for (let i = 0; i < piece.runs.length; i += 2)
              back.setRange(piece.runs[i] as number, piece.runs[i + 1] as number);
          } else addNamedBits(piece, back, 'received');
        }
        expect([back.contains(bitmap), bitmap.contains(back)]).toEqual([true, true]);
        if (!asBits) expect(pieces.every(({ words }) => words === undefined)).toBe(true);
      }),
      { numRuns: 60 },
    );
  });

  test('takes whichever way is shorter', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.integer({ min: 0, max: 5000 }), { minLength: 1, maxLength: 600 }), async (pages) => {
        const bitmap = bitmapOf(5001, pages);
        const chosen = await piecesOf(bitmap);
        const runs = await piecesOf(bitmap, false);
        expect(bytesOf(chosen)).toBeLessThanOrEqual(bytesOf(runs));
        const words = new Uint32Array(Math.ceil(5001 / 32));
        bitmap.copyWords(0, words);
        const used = [...words].slice(
          words.findIndex((word) => word !== 0),
          words.findLastIndex((word) => word !== 0) + 1,
        );
        // A frame of its own is worth 16 bytes.
        expect(bytesOf(chosen)).toBeLessThanOrEqual(16 + used.reduce((sum, word) => sum + size(word), 0));
      }),
      { numRuns: 100 },
    );
  });

  test('a bitmap begins and ends where its pages do', async () => {
    const pages = Array.from({ length: 100 }, (_, i) => 1000 + 2 * i);
    const [piece, ...more] = await piecesOf(bitmapOf(PIECE, pages));
    expect([piece?.firstPage, piece?.words?.length, more]).toEqual([992, 7, []]);
  });

  test('a run that goes on over many pieces is one run', async () => {
    const bitmap = new DirtyBitmap(40 * PIECE);
    bitmap.setRange(7, 39 * PIECE);
    expect(await piecesOf(bitmap)).toEqual([{ runs: [7, 39 * PIECE] }]);
  });

  test.each([true, false])('no frame is large, and none waits for the whole bitmap (as bits: %s)', async (asBits) => {
    const bitmap = new DirtyBitmap(6 * PIECE);
    bitmap.words.fill(0x55555555);
    let most = 0;
    let pages = 0;
    let frames = 0;
    for await (const piece of namedPages(bitmap, asBits, systemClock)) {
      frames++;
      most = Math.max(most, bytesOf([piece]));
      pages += pagesIn([piece]).length;
      // The first piece is there long before the last page was looked at.
      if (frames === 1) bitmap.words.fill(0, 4 * MOST_WORDS);
    }
    expect(pages).toBe(2 * PIECE);
    expect(most).toBeLessThanOrEqual(2 ** 18);
  });

  test('gives the event loop its turns', async () => {
    let yields = 0;
    let now = 0;
    const clock = {
      ...systemClock,
      now: () => (now += 1),
      yield: async () => {
        yields++;
      },
    };
    const bitmap = new DirtyBitmap(30 * PIECE);
    for await (const _ of namedPages(bitmap, true, clock)) expect(_).toBeUndefined();
    expect(yields).toBeGreaterThan(10);
  });
});

describe('a bitmap of a hostile peer', () => {
  const bad: readonly (readonly [string, object, string])[] = [
    ['runs beside it', { runs: [0, 1] }, 'GODWIT_PROTOCOL'],
    ['no words', { words: [] }, 'GODWIT_PROTOCOL'],
    ['too many words', { words: new Array(MOST_WORDS + 1).fill(1) }, 'GODWIT_PROTOCOL'],
    ['no first page', { firstPage: undefined }, 'GODWIT_PROTOCOL'],
    ['a first page inside a word', { firstPage: 33 }, 'GODWIT_PROTOCOL'],
    ['a first page before the block', { firstPage: -32 }, 'GODWIT_PROTOCOL'],
    ['a first page that is no number', { firstPage: Number.NaN }, 'GODWIT_PROTOCOL'],
    ['a word that is negative', { words: [-1] }, 'GODWIT_PROTOCOL'],
    ['a word of 33 bits', { words: [2 ** 32] }, 'GODWIT_PROTOCOL'],
    ['a word with a fraction', { words: [1.5] }, 'GODWIT_PROTOCOL'],
    ['no page', { words: [0, 0] }, 'GODWIT_PROTOCOL'],
    ['a bit behind the last page', { firstPage: 64, words: [0, 1 << 4] }, 'GODWIT_OUT_OF_RANGE'],
    ['a first page far behind the block', { firstPage: 2 ** 40, words: [1] }, 'GODWIT_OUT_OF_RANGE'],
    ['a block that does not exist', { block: 1 }, 'GODWIT_OUT_OF_RANGE'],
  ];

  test.each(bad)('%s is refused, and sets nothing', (_, change, code) => {
    const memory = new BufferMemory([{ id: 'ram', guestPhysicalAddress: 0, byteLength: 100 * PAGE }]);
    const into = new DirtyBitmaps(memory);
    const frame = { type: 'received' as const, block: 0, runs: [], firstPage: 32, words: [1], ...change };
    expect(() => addNamedPages(memory, frame, into)).toThrow(expect.objectContaining({ code }));
    expect(into.isEmpty()).toBe(true);
  });

  test('the last page of a block is in it', () => {
    const memory = new BufferMemory([{ id: 'ram', guestPhysicalAddress: 0, byteLength: 100 * PAGE }]);
    const into = new DirtyBitmaps(memory);
    addNamedPages(memory, { type: 'owed', block: 0, runs: [], firstPage: 96, words: [1 << 3] }, into);
    expect([...into.at(0).runs(new PageRunList())]).toEqual([{ firstPage: 99, pageCount: 1 }]);
  });
});

test.each([true, false])(
  'a source whose link was lost is told a bitmap only if it reads one (it does: %s)',
  async (reads) => {
    const told: NamedPages[] = [];
    const without = (features: readonly string[]) => (reads ? features : features.filter((name) => name !== 'bitmap'));
    let sent = 0;
    const toy: Toy = start({
      source: filledVm(),
      migrate: { hotPagesLast: false },
      link: {
        fromSource: (frame, payload) => {
          if (frame.type === 'hello') return { frame: { ...frame, features: without(frame.features) }, payload };
          if (frame.type === 'roundEnd' && ++sent === 1) {
            toy.link.cut({ delivered: true });
            return undefined;
          }
          return { frame, payload };
        },
        fromDestination: (frame, payload) => {
          if (frame.type === 'received') told.push(frame);
          return { frame, payload };
        },
      },
    });
    expect((await toy.settled()).code).toBeUndefined();
    expect(pagesIn(told)).toEqual(Array.from({ length: 32 }, (_, i) => 2 * i));
    expect(told.some(({ words }) => words !== undefined)).toBe(reads);
  },
);
