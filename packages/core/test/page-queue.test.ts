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
