import { DirtyBitmap, DirtyBitmaps, PageRunList, RAM_WINDOW_BYTES } from '@godwit/core';
import { BufferMemory } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

/** Page counts around the borders of words, and anything else. */
const pageCount = fc.oneof(
  fc.constantFrom(0, 1, 31, 32, 33, 63, 64, 65, 95, 96, 97, 127, 128, 129),
  fc.integer({ min: 0, max: 300 }),
);

interface Step {
  readonly kind: 'set' | 'setRange' | 'clearRange' | 'setAll' | 'clearAll' | 'or' | 'orWords';
  readonly at: number;
  readonly length: number;
  readonly words: readonly number[];
}

const step: fc.Arbitrary<Step> = fc.record({
  kind: fc.constantFrom(
    'set',
    'setRange',
    'setRange',
    'clearRange',
    'clearRange',
    'setAll',
    'clearAll',
    'or',
    'orWords',
  ),
  at: fc.nat(1000),
  length: fc.nat(1000),
  words: fc.array(fc.integer(), { maxLength: 12 }),
});

/** Does the same to a bitmap and to a Set of page numbers. */
function apply({ kind, at, length, words }: Step, bitmap: DirtyBitmap, pages: Set<number>): void {
  const n = bitmap.pageCount;
  const first = n === 0 ? 0 : at % n;
  const count = n === 0 ? 0 : length % (n - first + 1);
  switch (kind) {
    case 'set':
      if (n === 0) return;
      bitmap.set(first);
      pages.add(first);
      break;
    case 'setRange':
      bitmap.setRange(first, count);
      for (let page = first; page < first + count; page++) pages.add(page);
      break;
    case 'clearRange':
      bitmap.clearRange(first, count);
      for (let page = first; page < first + count; page++) pages.delete(page);
      break;
    case 'setAll':
      bitmap.setAll();
      for (let page = 0; page < n; page++) pages.add(page);
      break;
    case 'clearAll':
      bitmap.clearAll();
      pages.clear();
      break;
    case 'or': {
      const other = new DirtyBitmap(n);
      for (let page = at % 7; page < n; page += 1 + (length % 9)) {
        other.set(page);
        pages.add(page);
      }
      bitmap.or(other);
      break;
    }
    case 'orWords': {
      const start = Math.floor(first / 32) * 32;
      bitmap.orWords(Uint32Array.from(words), start);
      for (const [index, word] of words.entries()) {
        for (let bit = 0; bit < 32; bit++) {
          const page = start + index * 32 + bit;
          if (((word >>> bit) & 1) === 1 && page < n) pages.add(page);
        }
      }
    }
  }
}

const bitmapAndPages = fc.tuple(pageCount, fc.array(step, { maxLength: 12 })).map(([n, steps]) => {
  const bitmap = new DirtyBitmap(n);
  const pages = new Set<number>();
  for (const one of steps) apply(one, bitmap, pages);
  return { bitmap, pages, steps };
});

describe('a dirty bitmap agrees with a set of page numbers', () => {
  test('has, count, isEmpty', () => {
    fc.assert(
      fc.property(bitmapAndPages, ({ bitmap, pages }) => {
        const all = Array.from({ length: bitmap.pageCount }, (_, page) => page);
        expect(all.filter((page) => bitmap.has(page))).toEqual(all.filter((page) => pages.has(page)));
        expect(bitmap.count()).toBe(pages.size);
        expect(bitmap.isEmpty()).toBe(pages.size === 0);
      }),
    );
  });

  test('countRange, nextDirty, nextClean, runs', () => {
    fc.assert(
      fc.property(bitmapAndPages, fc.nat(400), fc.nat(400), ({ bitmap, pages }, at, length) => {
        const n = bitmap.pageCount;
        const first = Math.min(at, n);
        const count = Math.min(length, n - first);
        const inside = [...pages].filter((page) => page >= first && page < first + count).sort((a, b) => a - b);
        expect(bitmap.countRange(first, count)).toBe(inside.length);
        const after = [...pages].filter((page) => page >= first).sort((a, b) => a - b);
        expect(bitmap.nextDirty(first)).toBe(after[0] ?? -1);
        let clean = first;
        while (pages.has(clean)) clean++;
        expect(bitmap.nextClean(first)).toBe(Math.min(clean, n));
        const runs = bitmap.runs(new PageRunList(1), first, count);
        const listed: number[] = [];
        for (const { firstPage, pageCount: pagesOfRun } of runs)
          for (let i = 0; i < pagesOfRun; i++) listed.push(firstPage + i);
        expect(listed).toEqual(inside);
        // Coalesced: no two runs touch.
        for (let i = 1; i < runs.length; i++)
          expect(runs.firstPage(i)).toBeGreaterThan(runs.firstPage(i - 1) + runs.runPages(i - 1));
      }),
    );
  });

  test('runs of neighbouring ranges, one after the other, are those of the whole', () => {
    fc.assert(
      fc.property(bitmapAndPages, fc.integer({ min: 1, max: 130 }), ({ bitmap }, step) => {
        const pieces = new PageRunList(1);
        for (let first = 0; first < bitmap.pageCount; first += step) {
          bitmap.runs(pieces, first, Math.min(step, bitmap.pageCount - first));
        }
        expect([...pieces]).toEqual([...bitmap.runs(new PageRunList())]);
        expect(pieces.pageCount).toBe(bitmap.count());
      }),
    );
  });

  test('the bytes are what KVM writes: bit 0 of byte 0 is page 0, in whole 64-bit words, zero past the last page', () => {
    fc.assert(
      fc.property(bitmapAndPages, ({ bitmap, pages }) => {
        expect(bitmap.bytes.byteLength).toBe(Math.ceil(bitmap.pageCount / 64) * 8);
        const bytes = Buffer.alloc(bitmap.bytes.byteLength);
        for (const page of pages) bytes[page >> 3] = (bytes[page >> 3] as number) | (1 << (page & 7));
        expect(Buffer.compare(bitmap.bytes, bytes)).toBe(0);
      }),
    );
  });

  test('maskTail drops what a kernel or a peer has set past the last page, and nothing else', () => {
    fc.assert(
      fc.property(bitmapAndPages, ({ bitmap, pages }) => {
        const before = bitmap.words.slice();
        for (let bit = bitmap.pageCount; bit < bitmap.words.length * 32; bit++) {
          bitmap.words[bit >> 5] = (bitmap.words[bit >> 5] as number) | (1 << (bit & 31));
        }
        bitmap.maskTail();
        expect(bitmap.words).toEqual(before);
        expect(bitmap.count()).toBe(pages.size);
      }),
    );
  });
});

test('ranges outside are refused and change nothing', () => {
  const bitmap = new DirtyBitmap(65);
  const invalid = expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT' });
  for (const [first, count] of [
    [-1, 1],
    [65, 1],
    [0, 66],
    [64, 2],
    [0, -1],
    [Number.NaN, 1],
    [0, Number.NaN],
  ] as const) {
    expect(() => bitmap.setRange(first, count)).toThrow(invalid);
    expect(() => bitmap.clearRange(first, count)).toThrow(invalid);
    expect(() => bitmap.countRange(first, count)).toThrow(invalid);
    expect(() => bitmap.runs(new PageRunList(), first, count)).toThrow(invalid);
  }
  expect(() => bitmap.set(65)).toThrow(invalid);
  expect(() => bitmap.or(new DirtyBitmap(64))).toThrow(invalid);
  expect(() => bitmap.orWords(new Uint32Array(1), 1)).toThrow(invalid);
  expect(() => bitmap.orWords(new Uint32Array(1), -32)).toThrow(invalid);
  for (const pages of [-1, 0.5, Number.NaN, 2 ** 41]) expect(() => new DirtyBitmap(pages)).toThrow(invalid);
  expect(bitmap.isEmpty()).toBe(true);
});

test('page numbers beyond 2^32 are exact', () => {
  // 512 MiB of zeros that nobody touches but at its end: 16 TiB of guest.
  const bitmap = new DirtyBitmap(2 ** 32 + 100);
  bitmap.setRange(2 ** 32 - 3, 70);
  bitmap.set(2 ** 32 + 99);
  expect(bitmap.countRange(2 ** 32 - 64, 164)).toBe(71);
  expect(bitmap.has(2 ** 32 + 66)).toBe(true);
  expect(bitmap.has(2 ** 32 + 67)).toBe(false);
  expect(bitmap.nextDirty(2 ** 32 + 67)).toBe(2 ** 32 + 99);
  expect([...bitmap.runs(new PageRunList(), 2 ** 32 - 64)]).toEqual([
    { firstPage: 2 ** 32 - 3, pageCount: 70 },
    { firstPage: 2 ** 32 + 99, pageCount: 1 },
  ]);
});

describe('PageRunList', () => {
  const run = fc.record({ gap: fc.nat(3), pageCount: fc.integer({ min: 0, max: 5 }) });

  test('lists what was pushed, and merges runs that touch', () => {
    fc.assert(
      fc.property(fc.array(run, { maxLength: 200 }), fc.constantFrom(0, 2 ** 32 - 50, 2 ** 45), (given, start) => {
        const list = new PageRunList(1);
        const pages: number[] = [];
        let next = start;
        for (const { gap, pageCount: count } of given) {
          next += gap;
          list.push(next, count);
          for (let i = 0; i < count; i++) pages.push(next + i);
          next += count;
        }
        expect(
          [...list].flatMap(({ firstPage, pageCount: count }) =>
            Array.from({ length: count }, (_, i) => firstPage + i),
          ),
        ).toEqual(pages);
        expect(list.pageCount).toBe(pages.length);
        expect(list.length).toBe(pages.filter((page, i) => i === 0 || pages[i - 1] !== page - 1).length);
        expect(list.toFlatArray()).toEqual([...list].flatMap(({ firstPage, pageCount: count }) => [firstPage, count]));
        expect([...PageRunList.from(list)]).toEqual([...list]);
        list.clear();
        expect([list.length, list.pageCount, [...list]]).toEqual([0, 0, []]);
      }),
    );
  });
});

describe('DirtyBitmaps', () => {
  const memory = new BufferMemory(
    [
      { id: 'low', guestPhysicalAddress: 0, byteLength: 33 * 256 },
      { id: 'high', guestPhysicalAddress: RAM_WINDOW_BYTES * 4, byteLength: 64 * 256 },
    ],
    256,
  );

  test('are one bitmap for each block', () => {
    const bitmaps = new DirtyBitmaps(memory);
    expect(bitmaps.blocks.map(({ pageCount: pages }) => pages)).toEqual([33, 64]);
    expect(bitmaps.isEmpty()).toBe(true);
    bitmaps.at(1).set(63);
    expect([bitmaps.count(), bitmaps.isEmpty()]).toEqual([1, false]);
    const others = new DirtyBitmaps(memory);
    others.at(0).set(32);
    bitmaps.or(others);
    expect(bitmaps.count()).toBe(2);
    bitmaps.setAll();
    expect(bitmaps.count()).toBe(97);
    bitmaps.clearAll();
    expect(bitmaps.count()).toBe(0);
    expect(() => bitmaps.at(2)).toThrow(expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT' }));
  });
});

describe('the summary of where bits may be set', () => {
  /** Three chunks of 32,768 pages and a piece of a fourth. */
  const PAGES = 3 * 32_768 + 1000;
  const edges = fc.constantFrom(0, 31, 32, 32_766, 32_767, 32_768, 32_769, 65_535, 65_536, 98_303, 98_304, PAGES - 1);
  const page = fc.oneof(edges, fc.nat(PAGES - 1));
  const change = fc.oneof(
    fc.record({ kind: fc.constantFrom('set', 'orWord', 'wordsFor', 'orWords'), page }),
    fc.record({ kind: fc.constantFrom('setRange', 'clearRange'), page, count: fc.oneof(fc.nat(70), fc.nat(70_000)) }),
    fc.record({ kind: fc.constantFrom('clearAll', 'setAll') }),
    fc.record({ kind: fc.constantFrom('or', 'and', 'andNot'), others: fc.array(page, { maxLength: 5 }) }),
  );

  test('changes nothing of what any operation does, whoever writes the words', () => {
    fc.assert(
      fc.property(fc.array(change, { maxLength: 12 }), fc.boolean(), fc.boolean(), (changes, raw, rawOther) => {
        const bitmap = new DirtyBitmap(PAGES);
        const pages = new Uint8Array(PAGES);
        const written = raw ? bitmap.words : undefined;
        for (const one of changes) {
          const at = 'page' in one ? one.page : 0;
          if (one.kind === 'set') bitmap.set(at);
          if (one.kind === 'orWord') bitmap.orWord(Math.floor(at / 32), 1 << (at % 32));
          if (one.kind === 'orWords') {
            const first = Math.floor(at / 32) * 32;
            bitmap.orWords(Uint32Array.of(1 << (at % 32)), first);
          }
          if (one.kind === 'wordsFor') {
            const words = written ?? bitmap.wordsFor(at, 1);
            const index = Math.floor(at / 32);
            words[index] = (words[index] as number) | (1 << (at % 32));
          }
          if (['set', 'orWord', 'orWords', 'wordsFor'].includes(one.kind)) pages[at] = 1;
          if ('count' in one) {
            const count = Math.min(one.count, PAGES - at);
            if (one.kind === 'setRange') bitmap.setRange(at, count);
            else bitmap.clearRange(at, count);
            pages.fill(one.kind === 'setRange' ? 1 : 0, at, at + count);
          }
          if (one.kind === 'clearAll' || one.kind === 'setAll') {
            bitmap[one.kind]();
            pages.fill(one.kind === 'setAll' ? 1 : 0);
          }
          if ('others' in one) {
            const other = new DirtyBitmap(PAGES);
            if (rawOther) void other.words;
            for (const set of one.others) other.set(set);
            bitmap[one.kind as 'or' | 'and' | 'andNot'](other);
            for (let i = 0; i < PAGES; i++) {
              const set = one.others.includes(i);
              if (one.kind === 'or' && set) pages[i] = 1;
              if ((one.kind === 'and' && !set) || (one.kind === 'andNot' && set)) pages[i] = 0;
            }
          }
        }
        const dirty: number[] = [];
        for (let i = 0; i < PAGES; i++) if (pages[i] === 1) dirty.push(i);
        expect(bitmap.count()).toBe(dirty.length);
        expect(bitmap.isEmpty()).toBe(dirty.length === 0);
        expect(bitmap.nextDirty(0)).toBe(dirty[0] ?? -1);
        expect(bitmap.nextDirty(32_768)).toBe(dirty.find((one) => one >= 32_768) ?? -1);
        const runs = [...bitmap.runs(new PageRunList())].flatMap(({ firstPage, pageCount }) =>
          Array.from({ length: pageCount }, (_, i) => firstPage + i),
        );
        expect(runs).toEqual(dirty);
        const copy = new DirtyBitmap(PAGES);
        copy.or(bitmap);
        expect([copy.count(), copy.contains(bitmap), bitmap.contains(copy)]).toEqual([dirty.length, true, true]);
        copy.clearAll();
        expect(copy.isEmpty()).toBe(true);
      }),
      { numRuns: 60 },
    );
  });
});
