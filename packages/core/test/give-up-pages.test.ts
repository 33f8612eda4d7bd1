import type { PageRun, RamBlock } from '@godwit/core';
import { BufferMemory, engineParts, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

const { giveUpPages } = engineParts;
const PAGE = 4096;
const PAGES = 2000;

function memory(): BufferMemory {
  return new BufferMemory([{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE }]);
}

/** The bits of these pages, of a block of `PAGES` pages. */
function bitsOf(pages: readonly number[]): BufferMemory['blocks'][number]['present'] {
  const { present } = memory().blocks[0] as BufferMemory['blocks'][number];
  for (const page of pages) present.set(page);
  return present;
}

/** A block that notes what is discarded. */
function noting(answers: (run: PageRun) => boolean = () => true): { block: RamBlock; runs: PageRun[] } {
  const runs: PageRun[] = [];
  const block = {
    ...memory().blocks[0],
    discard: (run: PageRun) => {
      runs.push(run);
      return answers(run);
    },
  } as unknown as RamBlock;
  return { block, runs };
}

describe('pages that are to be missing', () => {
  test('are given up in runs, each once, and no other', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uniqueArray(fc.nat({ max: PAGES - 1 }), { maxLength: 300 }), async (pages) => {
        const { block, runs } = noting();
        await giveUpPages(block, bitsOf(pages), new VirtualClock(), () => false);
        const given = runs.flatMap(({ firstPage, pageCount }) =>
          Array.from({ length: pageCount }, (_, i) => firstPage + i),
        );
        expect(given).toEqual([...pages].sort((a, b) => a - b));
        // Neighbours are one call.
        for (const [i, { firstPage }] of runs.entries())
          if (i > 0)
            expect(firstPage).toBeGreaterThan((runs[i - 1] as PageRun).firstPage + (runs[i - 1] as PageRun).pageCount);
      }),
      { numRuns: 60 },
    );
  });

  test('that are pinned are no reason to go on: nothing behind them is given up', async () => {
    const { block, runs } = noting(({ firstPage }) => firstPage !== 7);
    await expect(giveUpPages(block, bitsOf([1, 2, 7, 8, 20]), new VirtualClock(), () => false)).rejects.toMatchObject({
      code: 'GODWIT_BLOCKED',
      message: expect.stringContaining('pages 7 to 8 of RAM block "ram" cannot be given up'),
    });
    expect(runs.map(({ firstPage }) => firstPage)).toEqual([1, 7]);
  });

  test('of memory that cannot be given up are refused, but for none at all', async () => {
    const block = { ...memory().blocks[0], discard: undefined } as unknown as RamBlock;
    await expect(giveUpPages(block, bitsOf([3]), new VirtualClock(), () => false)).rejects.toMatchObject({
      code: 'GODWIT_BLOCKED',
    });
    await expect(giveUpPages(block, bitsOf([]), new VirtualClock(), () => false)).resolves.toBeUndefined();
  });

  test('leave the event loop its turns, and end with their connection', async () => {
    const clock = new VirtualClock();
    let yields = 0;
    let now = 0;
    const slow = { now: () => now, sleep: clock.sleep.bind(clock), yield: async () => void yields++ };
    const { block, runs } = noting(() => {
      now += 0.5;
      return true;
    });
    const every = Array.from({ length: PAGES / 2 }, (_, i) => 2 * i);
    await giveUpPages(block, bitsOf(every), slow, () => false);
    expect(runs).toHaveLength(PAGES / 2);
    // 500 ms of work: no turn is more than 32 runs away.
    expect(yields).toBeGreaterThanOrEqual(30);
    const cut = noting();
    await expect(giveUpPages(cut.block, bitsOf(every), slow, () => cut.runs.length >= 5)).rejects.toMatchObject({
      code: 'GODWIT_LINK_LOST',
    });
    expect(cut.runs).toHaveLength(5);
  });
});
