import { DirtyBitmaps, type GuestMemory, type PageRun, PageRunList } from '@godwit/core';
import type { TakenPages } from '@godwit/core/pages';
import { engineParts } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

const { PageQueue, PageTaker } = engineParts;

/** 16 MiB pages: a window of 1 GiB has 64 of them, and so has a chunk. */
const LARGE = 2 ** 24;
const WINDOW = 64;

interface Page {
  readonly block: number;
  readonly page: number;
}

/** Pages of each block, which of them are holes, and how big a page is. */
interface Shape {
  readonly pageCounts: readonly number[];
  readonly holes: ReadonlySet<string>;
  readonly pageSize: number;
}

const key = ({ block, page }: Page) => `${block}:${page}`;

function memoryOf({ pageCounts, holes, pageSize }: Shape, asked: PageRun[] = []): GuestMemory {
  return {
    pageSize,
    blocks: pageCounts.map((pages, block) => ({
      id: `block-${block}`,
      guestPhysicalAddress: block * 2 ** 40,
      byteLength: pages * pageSize,
      view: () => new Uint8Array(),
      *populated(range = { firstPage: 0, pageCount: pages }) {
        asked.push(range);
        for (let page = range.firstPage; page < range.firstPage + range.pageCount; page++) {
          if (!holes.has(key({ block, page }))) yield { firstPage: page, pageCount: 1 };
        }
      },
    })),
  };
}

function batch(): TakenPages {
  return { blockIndex: 0, runs: new PageRunList(), holes: new PageRunList() };
}

function pagesOf(block: number, list: PageRunList): Page[] {
  return [...list].flatMap(({ firstPage, pageCount }) =>
    Array.from({ length: pageCount }, (_, i) => ({ block, page: firstPage + i })),
  );
}

const all = ({ blockIndex, runs, holes }: TakenPages) => [...pagesOf(blockIndex, runs), ...pagesOf(blockIndex, holes)];

const shapes = fc
  .record({
    pageCounts: fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1, maxLength: 4 }),
    large: fc.boolean(),
    seed: fc.array(fc.nat(299), { maxLength: 60 }),
  })
  .map(({ pageCounts, large, seed }): Shape => {
    const holes = new Set<string>();
    for (const [i, page] of seed.entries()) holes.add(key({ block: i % pageCounts.length, page }));
    return { pageCounts, holes, pageSize: large ? LARGE : 4096 };
  });

const runsOf = fc.array(fc.record({ block: fc.nat(3), first: fc.nat(299), count: fc.integer({ min: 1, max: 120 }) }), {
  maxLength: 12,
});

function owe(bitmaps: DirtyBitmaps, runs: readonly { block: number; first: number; count: number }[]): Set<string> {
  const pages = new Set<string>();
  for (const { block, first, count } of runs) {
    const bitmap = bitmaps.blocks[block];
    for (let page = first; bitmap !== undefined && page < Math.min(first + count, bitmap.pageCount); page++) {
      bitmap.set(page);
      pages.add(key({ block, page }));
    }
  }
  return pages;
}

describe('takers', () => {
  test('get every page once, re-armed before, holes apart, and nothing else', () => {
    fc.assert(
      fc.property(
        shapes,
        runsOf,
        fc.array(
          fc.record({
            taker: fc.nat(2),
            pages: fc.integer({ min: 1, max: 200 }),
            runs: fc.integer({ min: 1, max: 9 }),
          }),
          {
            minLength: 1,
            maxLength: 20,
          },
        ),
        (shape, runs, turns) => {
          const memory = memoryOf(shape);
          const queue = PageQueue.create(memory);
          const owed = owe(queue.owed, runs);
          const rearmed = new Set<string>();
          const takers = [0, 1, 2].map(
            () =>
              new PageTaker(PageQueue.join(memory, queue.buffers), memory, (block, first, count, words) => {
                expect(first % 64).toBe(0);
                expect(count % 64 === 0 || first + count === shape.pageCounts[block]).toBe(true);
                expect(words.length).toBe(Math.ceil(count / 64) * 2);
                for (let i = 0; i < words.length * 32; i++) {
                  if (((words[i >> 5] as number) & (1 << (i % 32))) === 0) continue;
                  const name = key({ block, page: first + i });
                  expect(owed.has(name) && !rearmed.has(name)).toBe(true);
                  rearmed.add(name);
                }
              }),
          );
          const pass = queue.open();
          for (const taker of takers) taker.begin(pass);
          const got = new Set<string>();
          const into = batch();
          const idle = new Set<number>();
          for (let turn = 0; idle.size < 3; turn++) {
            const { taker, pages, runs: mostRuns } = turns[turn % turns.length] as (typeof turns)[number];
            const which = turn < turns.length ? taker : turn % 3;
            const count = (takers[which] as (typeof takers)[number]).take(into, pages, mostRuns);
            if (count === 0) idle.add(which);
            expect(count).toBe(count === 0 ? 0 : into.runs.pageCount + into.holes.pageCount);
            if (count === 0) continue;
            expect(into.runs.pageCount).toBeLessThanOrEqual(pages);
            for (const page of all(into)) {
              expect(rearmed.has(key(page)) && !got.has(key(page))).toBe(true);
              got.add(key(page));
            }
            for (const page of pagesOf(into.blockIndex, into.runs)) expect(shape.holes.has(key(page))).toBe(false);
            for (const page of pagesOf(into.blockIndex, into.holes)) expect(shape.holes.has(key(page))).toBe(true);
            const windows = shape.pageSize === LARGE ? WINDOW : 2 ** 18;
            for (const { firstPage, pageCount } of into.runs) {
              expect(Math.floor(firstPage / windows)).toBe(Math.floor((firstPage + pageCount - 1) / windows));
            }
          }
          expect(got).toEqual(owed);
          expect([queue.count(), queue.taken.count()]).toEqual([0, owed.size]);
          queue.acknowledged();
          expect(queue.taken.count()).toBe(0);
        },
      ),
      { numRuns: 300 },
    );
  });

  test('get the pages that go first, as far as they are owed, in a pass for these, and the others in the next', () => {
    fc.assert(
      fc.property(shapes, runsOf, runsOf, fc.integer({ min: 1, max: 200 }), (shape, owedRuns, firstRuns, pages) => {
        const memory = memoryOf(shape);
        const queue = PageQueue.create(memory);
        const owed = owe(queue.owed, owedRuns);
        const preferred = new DirtyBitmaps(memory);
        const first = owe(preferred, firstRuns);
        queue.prefer(preferred);
        const rearmed = new Set<string>();
        const joined = PageQueue.join(memory, queue.buffers);
        const taker = new PageTaker(joined, memory, (block, firstPage, _count, words) => {
          for (let i = 0; i < words.length * 32; i++) {
            const name = key({ block, page: firstPage + i });
            if (((words[i >> 5] as number) & (1 << (i % 32))) === 0) continue;
            expect(rearmed.has(name)).toBe(false);
            rearmed.add(name);
          }
        });
        const into = batch();
        for (const onlyFirst of [true, false]) {
          taker.begin(queue.open(1, queue.count(), onlyFirst));
          const got = new Set<string>();
          while (taker.take(into, pages, 5) > 0) for (const page of all(into)) got.add(key(page));
          expect(got).toEqual(new Set([...owed].filter((name) => first.has(name) === onlyFirst)));
          for (const name of got) expect(rearmed.has(name)).toBe(true);
        }
        expect([queue.count(), rearmed]).toEqual([0, owed]);
      }),
      { numRuns: 200 },
    );
  });

  test('get nothing from a queue that is closed, nor in a pass that is over; what they had claimed is still owed', () => {
    const memory = memoryOf({ pageCounts: [200], holes: new Set(), pageSize: 4096 });
    const queue = PageQueue.create(memory);
    queue.owed.at(0).setAll();
    const taker = new PageTaker(queue, memory);
    const into = batch();
    expect(taker.take(into, 10, 10)).toBe(0);
    const first = queue.open();
    taker.begin(first);
    expect(taker.take(into, 10, 10)).toBe(10);
    queue.close();
    expect(taker.take(into, 10, 10)).toBe(0);
    expect(queue.count()).toBe(190);
    const second = queue.open();
    expect(second).not.toBe(first);
    expect(taker.take(into, 10, 10)).toBe(0);
    taker.begin(second);
    expect(taker.take(into, 500, 10)).toBe(190);
    expect(taker.take(into, 500, 10)).toBe(0);
  });

  test('take batches that span the block: a sparse round costs its pages, not its chunks', () => {
    const pages = 2 ** 22;
    const asked: PageRun[] = [];
    const memory = memoryOf({ pageCounts: [pages], holes: new Set(), pageSize: 4096 }, asked);
    const queue = PageQueue.create(memory);
    for (let page = 0; page < pages; page += 10_000) queue.owed.at(0).set(page);
    const taker = new PageTaker(queue, memory);
    taker.begin(queue.open());
    const into = batch();
    expect(taker.take(into, 1000, 300)).toBe(300);
    expect(into.runs.length).toBe(300);
    expect(taker.take(into, 1000, 300)).toBe(120);
    // No hole is looked for where nothing is dirty.
    expect(asked.reduce((sum, { pageCount }) => sum + pageCount, 0)).toBe(420);
  });

  test('leave out what was taken for a request meanwhile, also of the chunk that they have claimed', () => {
    const memory = memoryOf({ pageCounts: [300, 300], holes: new Set(), pageSize: 4096 });
    const queue = PageQueue.create(memory);
    queue.owed.at(0).setRange(0, 100);
    queue.owed.at(1).setRange(50, 100);
    const taker = new PageTaker(queue, memory);
    taker.begin(queue.open());
    const into = batch();
    taker.take(into, 10, 10);
    const asked = new PageRunList();
    // Page 7 was taken before, and page 200 is not owed.
    for (const [block, page] of [
      [0, 90],
      [1, 140],
      [0, 7],
      [0, 200],
    ] as const)
      queue.takeRange(block, page, 1, asked);
    expect(asked.toFlatArray()).toEqual([90, 1, 140, 1]);
    const rest: Page[] = [];
    while (taker.take(into, 64, 10) > 0) rest.push(...all(into));
    expect(rest).toHaveLength(188);
    expect(rest[0]).toEqual({ block: 0, page: 10 });
    for (const page of ['0:90', '1:140']) expect(new Set(rest.map(key)).has(page)).toBe(false);
  });
});

describe('a taker', () => {
  const dense = (pageCounts: readonly number[]) => {
    const memory = memoryOf({ pageCounts, holes: new Set(), pageSize: 4096 });
    const queue = PageQueue.create(memory);
    queue.owed.setAll();
    return { memory, queue };
  };

  test('fills its batch with as many runs of holes as of pages, and goes on with the others', () => {
    const holes = new Set([1, 3, 5, 7, 9].map((page) => key({ block: 0, page })));
    const memory = memoryOf({ pageCounts: [64], holes, pageSize: 4096 });
    const queue = PageQueue.create(memory);
    for (const page of [1, 3, 5, 7, 9]) queue.owed.at(0).set(page);
    const taker = new PageTaker(queue, memory);
    taker.begin(queue.open());
    const into = batch();
    const taken: number[][] = [];
    while (taker.take(into, 100, 2) > 0) taken.push(into.holes.toFlatArray());
    expect(taken).toEqual([
      [1, 1, 3, 1],
      [5, 1, 7, 1],
      [9, 1],
    ]);
  });

  test('takes no more runs of pages than it was asked for', () => {
    const { memory, queue } = dense([64]);
    queue.owed.clearAll();
    for (const page of [1, 3, 5, 7, 9]) queue.owed.at(0).set(page);
    const taker = new PageTaker(queue, memory);
    taker.begin(queue.open());
    const into = batch();
    const taken: number[][] = [];
    while (taker.take(into, 100, 2) > 0) taken.push(into.runs.toFlatArray());
    expect(taken).toEqual([
      [1, 1, 3, 1],
      [5, 1, 7, 1],
      [9, 1],
    ]);
  });

  test('begins each pass at the first block', () => {
    const { memory, queue } = dense([64, 64, 64]);
    const taker = new PageTaker(queue, memory);
    const into = batch();
    for (let pass = 0; pass < 2; pass++) {
      taker.begin(queue.open());
      const blocks: number[] = [];
      while (taker.take(into, 1000, 10) > 0) blocks.push(into.blockIndex);
      expect(blocks).toEqual([0, 1, 2]);
      queue.close();
      queue.acknowledged();
      queue.owed.setAll();
    }
  });

  test('has nothing to take before its first pass', () => {
    const { memory, queue } = dense([64]);
    const taker = new PageTaker(queue, memory);
    queue.open();
    expect([taker.take(batch(), 10, 10), queue.count()]).toEqual([0, 64]);
  });

  test('re-arms a chunk as a whole', () => {
    const { memory, queue } = dense([4096]);
    const rearmed: number[][] = [];
    const taker = new PageTaker(queue, memory, (_block, first, count, words) => {
      rearmed.push([first, count, words.length, words.reduce((sum, word) => sum + Number(word === 2 ** 32 - 1), 0)]);
    });
    taker.begin(queue.open(1, 4 * 4096));
    expect(taker.take(batch(), 5000, 10)).toBe(4096);
    expect(rearmed).toEqual([[0, 4096, 128, 128]]);
  });

  test('does not touch a chunk that another one claims in the same moment', () => {
    const { memory, queue } = dense([64, 64]);
    const [mine, other] = [[] as number[], new PageTaker(queue, memory)];
    const joined = PageQueue.join(memory, queue.buffers);
    const claim = joined.claim.bind(joined);
    let taken = 0;
    joined.claim = (at, next) => {
      if (taken === 0) taken = other.take(batch(), 64, 10);
      return claim(at, next);
    };
    const taker = new PageTaker(joined, memory, (block) => void mine.push(block));
    const pass = queue.open();
    for (const one of [taker, other]) one.begin(pass);
    const into = batch();
    expect([taker.take(into, 1000, 10), into.blockIndex, taken, mine]).toEqual([64, 1, 64, [1]]);
    expect(taker.take(into, 1000, 10)).toBe(0);
  });

  test('looks for no holes in a chunk whose pages were all taken for requests', () => {
    const asked: PageRun[] = [];
    const memory = memoryOf({ pageCounts: [64, 64], holes: new Set(), pageSize: 4096 }, asked);
    const queue = PageQueue.create(memory);
    queue.owed.setAll();
    const taker = new PageTaker(queue, memory, (block) => {
      if (block === 0) queue.takeAnswer(0, 0, 64, new PageRunList());
    });
    taker.begin(queue.open());
    const into = batch();
    expect([taker.take(into, 1000, 10), into.blockIndex, asked]).toEqual([64, 1, [{ firstPage: 0, pageCount: 64 }]]);
  });
});

describe('pages that are taken for answers', () => {
  test('are counted if they were owed, and nothing else is appended', () => {
    const memory = memoryOf({ pageCounts: [100], holes: new Set(), pageSize: 4096 });
    const queue = PageQueue.create(memory);
    queue.owed.at(0).setRange(0, 31);
    queue.owed.at(0).set(70);
    const into = new PageRunList();
    queue.takeAnswer(0, 0, 32, into);
    expect([into.toFlatArray(), queue.answeredPages]).toEqual([[0, 31], 31]);
    queue.takeAnswer(0, 70, 1, into);
    queue.takeAnswer(0, 70, 1, into);
    expect([into.toFlatArray(), queue.answeredPages]).toEqual([[0, 31, 70, 1], 32]);
    expect(PageQueue.join(memory, queue.buffers).answeredPages).toBe(32);
  });
});

describe('after a lost link', () => {
  test('everything that was taken is owed again, except for what the destination names', () => {
    fc.assert(
      fc.property(shapes, runsOf, fc.nat(400), runsOf, (shape, runs, count, named) => {
        const memory = memoryOf(shape);
        const queue = PageQueue.create(memory);
        const owed = owe(queue.owed, runs);
        const taker = new PageTaker(queue, memory);
        taker.begin(queue.open());
        const into = batch();
        const taken = new Set<string>();
        while (taken.size < count && taker.take(into, 40, 5) > 0) for (const page of all(into)) taken.add(key(page));
        queue.close();
        const received = new DirtyBitmaps(memory);
        const told = owe(received, named);
        const allowed = [...told].every((page) => taken.has(page));
        const before = queue.count();
        expect(queue.restore(received)).toBe(allowed);
        expect(queue.count()).toBe(allowed ? owed.size - told.size : before);
        if (allowed) return;
        received.clearAll();
        expect(queue.restore(received)).toBe(true);
        expect(queue.count()).toBe(owed.size);
      }),
      { numRuns: 200 },
    );
  });

  test('the destination may name pages of every connection of the round, and none after it', () => {
    const memory = memoryOf({ pageCounts: [300], holes: new Set(), pageSize: 4096 });
    const queue = PageQueue.create(memory);
    queue.owed.at(0).setRange(0, 200);
    const taker = new PageTaker(queue, memory);
    const into = batch();
    const received = new DirtyBitmaps(memory);
    for (const first of [0, 50]) {
      taker.begin(queue.open());
      taker.take(into, 50, 10);
      queue.close();
      received.at(0).setRange(first, 50);
      expect(queue.restore(received)).toBe(true);
      expect(queue.count()).toBe(150 - first);
    }
    queue.acknowledged();
    expect([queue.restore(received), queue.count()]).toEqual([false, 100]);
    queue.clear();
    expect(queue.count()).toBe(0);
  });
});
