import { DirtyBitmaps, type GuestMemory, PageRunList } from '@godwit/core';
import type { TakenPages } from '@godwit/core/pages';
import { engineParts } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';

const { PageQueue, PageTaker } = engineParts;

/** 16 MiB pages: a window of 1 GiB has 64 of them. */
const LARGE = 2 ** 24;

function memoryOf(pageCounts: readonly number[], pageSize = 4096): GuestMemory {
  return {
    pageSize,
    blocks: pageCounts.map((pages, block) => ({
      id: `block-${block}`,
      guestPhysicalAddress: block * 2 ** 40,
      byteLength: pages * pageSize,
      view: () => new Uint8Array(),
      populated: (range = { firstPage: 0, pageCount: pages }) => [range],
    })),
  };
}

const runsOf = (list: PageRunList) => [...list].map(({ firstPage, pageCount }) => [firstPage, pageCount]);
const batch = (): TakenPages => ({ blockIndex: 0, runs: new PageRunList(), holes: new PageRunList() });

describe('a range that is taken', () => {
  test.each<readonly [string, readonly (readonly [number, number])[], number, number, readonly (readonly number[])[]]>([
    ['gives whole words as one run', [[0, 128]], 0, 128, [[0, 128]]],
    ['gives a part of a word', [[0, 128]], 3, 7, [[3, 7]]],
    ['gives parts of two words', [[0, 128]], 30, 4, [[30, 4]]],
    [
      'gives the pages of a word that are owed, one by one',
      [
        [1, 3],
        [7, 2],
        [30, 5],
      ],
      0,
      64,
      [
        [1, 3],
        [7, 2],
        [30, 5],
      ],
    ],
    ['gives the first page of a word alone', [[32, 1]], 0, 64, [[32, 1]]],
    ['gives the last page of a word alone', [[63, 1]], 0, 128, [[63, 1]]],
    ['gives nothing where nothing is owed', [[100, 20]], 0, 64, []],
    ['leaves the pages before and behind it', [[0, 100]], 40, 1, [[40, 1]]],
  ])('%s', (_, owed, first, count, runs) => {
    const queue = PageQueue.create(memoryOf([128]));
    for (const [at, pages] of owed) queue.owed.at(0).setRange(at, pages);
    const before = queue.count();
    const into = new PageRunList();
    const taken = queue.takeRange(0, first, count, into);
    expect(runsOf(into)).toEqual(runs);
    expect(taken).toBe(runs.reduce((sum, [, pages = 0]) => sum + pages, 0));
    expect([queue.count(), queue.taken.count()]).toEqual([before - taken, taken]);
  });

  test('is cut at windows, and nowhere else', () => {
    const queue = PageQueue.create(memoryOf([256], LARGE));
    queue.owed.at(0).setRange(10, 200);
    const into = new PageRunList();
    expect(queue.takeRange(0, 0, 256, into)).toBe(200);
    expect(runsOf(into)).toEqual([
      [10, 54],
      [64, 64],
      [128, 64],
      [192, 18],
    ]);
  });
});

describe('chunks', () => {
  test.each([
    [4096, 4096],
    [2 ** 16, 256],
    [LARGE, 64],
    // The pages that have one entry in the summary of a bitmap.
    [256, 32_768],
  ])('of pages of %i bytes have at most %i pages', (pageSize, pages) => {
    const queue = PageQueue.create(memoryOf([64], pageSize));
    expect(queue.mostChunkPages).toBe(pages);
    queue.open(1, 2 ** 40);
    expect(queue.chunkPages).toBe(pages);
  });

  test.each([
    [1, 2 ** 14, 4096],
    [1, 2 ** 14 - 1, 2048],
    [2, 4096, 512],
    [2, 4095, 256],
    [4, 4096, 256],
    [1, 0, 64],
  ])('are so small that each of %i takers of %i pages finds about four: %i', (takers, pages, chunk) => {
    const queue = PageQueue.create(memoryOf([64]));
    queue.open(takers, pages);
    expect(queue.chunkPages).toBe(chunk);
  });

  test('are counted over all blocks, each of which begins one', () => {
    const queue = PageQueue.create(memoryOf([300, 64, 1]));
    expect(queue.firstChunks(64)).toEqual([0, 5, 6, 7]);
  });
});

describe('a queue', () => {
  test('is open in its own pass only, and never in pass 0', () => {
    const queue = PageQueue.create(memoryOf([64]));
    expect(queue.isOpen(0)).toBe(false);
    const pass = queue.open();
    expect([queue.isOpen(pass), queue.isOpen(0), queue.isOpen(pass + 1)]).toEqual([true, false, false]);
    queue.close();
    expect(queue.isOpen(pass)).toBe(false);
  });

  test('that is cleared owes nothing, and takes nothing back', () => {
    const memory = memoryOf([64]);
    const queue = PageQueue.create(memory);
    queue.owed.at(0).setRange(0, 64);
    queue.takeRange(0, 0, 32, new PageRunList());
    queue.clear();
    expect([queue.count(), queue.taken.count()]).toEqual([0, 0]);
    expect([queue.restore(new DirtyBitmaps(memory)), queue.count()]).toEqual([true, 0]);
  });

  test('shows other threads what is owed after they have joined, and this one what they have taken', () => {
    const memory = memoryOf([100_000]);
    const queue = PageQueue.create(memory);
    const joined = PageQueue.join(memory, queue.buffers);
    queue.owed.at(0).set(70_000);
    const taker = new PageTaker(joined, memory);
    taker.begin(queue.open());
    const into = batch();
    expect(taker.take(into, 10, 10)).toBe(1);
    expect(runsOf(into.runs)).toEqual([[70_000, 1]]);
    queue.close();
    expect([queue.count(), queue.taken.count()]).toEqual([0, 1]);
    expect([queue.restore(new DirtyBitmaps(memory)), queue.count()]).toEqual([true, 1]);
  });

  test('is in memory that threads share, where there is such a thing', () => {
    const memory = memoryOf([64]);
    const { control, blocks } = PageQueue.create(memory).buffers;
    const all = [control, ...blocks.flatMap((block) => Object.values(block) as ArrayBufferLike[])];
    expect(all.every((buffer) => buffer instanceof SharedArrayBuffer)).toBe(true);
    const kept = globalThis.SharedArrayBuffer;
    try {
      Reflect.deleteProperty(globalThis, 'SharedArrayBuffer');
      expect(PageQueue.create(memory).buffers.control).toBeInstanceOf(ArrayBuffer);
    } finally {
      globalThis.SharedArrayBuffer = kept;
    }
  });
});
