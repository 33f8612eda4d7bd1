import { digestWords } from '@godwit/core/pages';
import { BufferMemory, engineParts, VirtualClock } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import fc from 'fast-check';

const { DigestComparison, MemoryWindows } = engineParts;
const PAGE = 256;
const PAGES = 64;

/** Windows that remember the first page of every look at memory. */
class WatchedWindows extends MemoryWindows {
  readonly looked: number[] = [];
  override words(blockIndex: number, page: number): Int32Array | undefined {
    this.looked.push(page);
    return super.words(blockIndex, page);
  }
}

function digestOf(value: number): readonly number[] {
  const own = new Uint32Array(2);
  const words = new Int32Array(PAGE / 4).fill(value);
  digestWords(words, 0, words.length, own, 0);
  return [...own];
}

/** What a page is at each end: the value of its words, 0 for zero, `undefined` for a hole. */
const page = fc.record({
  here: fc.option(fc.integer({ min: 0, max: 2 }), { nil: undefined }),
  there: fc.integer({ min: 0, max: 2 }),
});

test('finds exactly the pages that differ, and reads no hole', async () => {
  const pages = fc.array(page, { minLength: PAGES, maxLength: PAGES });
  await fc.assert(
    fc.asyncProperty(pages, fc.boolean(), async (content, zerosToo) => {
      const memory = new BufferMemory([{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE }], PAGE);
      for (const [i, { here }] of content.entries()) {
        if (here !== undefined) memory.write(0, i * PAGE, new Uint8Array(new Int32Array(PAGE / 4).fill(here).buffer));
      }
      const windows = new WatchedWindows(memory);
      const comparison = new DigestComparison(windows, new VirtualClock());
      const told = content.flatMap(({ there }, i) => (there !== 0 || zerosToo ? [i] : []));
      if (told.length > 0) {
        const digests = Uint32Array.from(told.flatMap((i) => digestOf(content[i]?.there ?? 0)));
        await comparison.compare(
          0,
          told.flatMap((i) => [i, 1]),
          digests,
        );
      }
      await comparison.finish();
      const wrong = content.flatMap(({ here = 0, there }, i) => (here === there ? [] : [i]));
      expect(comparison.pagesDifferent).toBe(wrong.length);
      // The first ones found: told pages come before the others.
      const named = comparison.differences.filter((_, i) => i % 2 === 1);
      expect(named).toHaveLength(Math.min(16, wrong.length));
      expect(wrong).toEqual(expect.arrayContaining(named));
      expect(windows.looked.filter((i) => content[i]?.here === undefined)).toEqual([]);
    }),
  );
});

test('holes between runs that lie far apart are not looked for', async () => {
  const memory = new BufferMemory([{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE }], PAGE);
  const asked: number[] = [];
  const [block] = memory.blocks;
  const populated = block?.populated;
  const watched = {
    ...block,
    populated: (range: { firstPage: number; pageCount: number }) => {
      asked.push(range.firstPage, range.pageCount);
      return populated?.(range) ?? [];
    },
  };
  const windows = new MemoryWindows({ pageSize: PAGE, blocks: [watched as (typeof memory.blocks)[number]] });
  const comparison = new DigestComparison(windows, new VirtualClock());
  await comparison.compare(0, [1, 1, 60, 1], Uint32Array.from([...digestOf(0), ...digestOf(1)]));
  expect(asked).toEqual([1, 1, 60, 1]);
  await comparison.compare(0, [10, 1, 12, 1], Uint32Array.from([...digestOf(0), ...digestOf(0)]));
  expect(asked.slice(4)).toEqual([10, 3]);
  expect([comparison.pagesDifferent, comparison.differences]).toEqual([1, [0, 60]]);
});
