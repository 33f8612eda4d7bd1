import { DirtyBitmaps, type GuestMemory, type PayloadTarget } from '@godwit/core';
import { engineParts } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

const { MemoryWindows, SinkChoice } = engineParts;

const PAGE = 4096;
const PAGES = 200;
const FILE = { fd: 77, position: 3 * 2 ** 20 };

const whole = new Uint8Array(PAGES * PAGE);

function memoryOf(file: typeof FILE | undefined): GuestMemory {
  const block = {
    id: 'ram',
    guestPhysicalAddress: 0,
    byteLength: PAGES * PAGE,
    view: (offset: number, length: number) => whole.subarray(offset, offset + length),
  };
  return { pageSize: PAGE, blocks: [file === undefined ? block : { ...block, memoryFile: () => file }] };
}

interface Put {
  readonly page: number;
  readonly where: 'file' | 'mapping';
}

/** Which page goes where, in the order of the payload. */
function pagesOf(targets: readonly PayloadTarget[]): Put[] {
  return targets.flatMap((target) => {
    const isView = target instanceof Uint8Array;
    const from = isView ? target.byteOffset : target.position - FILE.position;
    expect(from % PAGE).toBe(0);
    return Array.from(
      { length: target.length / PAGE },
      (_, i): Put => ({
        page: from / PAGE + i,
        where: isView ? 'mapping' : 'file',
      }),
    );
  });
}

const runsOf = fc
  .array(fc.tuple(fc.nat(30), fc.integer({ min: 1, max: 40 })), { minLength: 1, maxLength: 8 })
  .map((gaps) => {
    const runs: number[] = [];
    let page = 0;
    for (const [gap, count] of gaps) {
      page += gap;
      if (page + count > PAGES) break;
      runs.push(page, count);
      page += count;
    }
    return runs;
  });

describe('where pages of a frame go', () => {
  test('fresh pages into the memory file, all others into the mapping, in their order', () => {
    fc.assert(
      fc.property(runsOf, fc.array(fc.nat(PAGES - 1), { maxLength: 40 }), fc.boolean(), (runs, there, dense) => {
        const memory = memoryOf(FILE);
        const touched = new DirtyBitmaps(memory);
        for (const page of there) touched.at(0).setRange(page, dense ? Math.min(9, PAGES - page) : 1);
        const put = pagesOf(new SinkChoice(new MemoryWindows(memory), touched).targets(0, runs, true));
        const pages: number[] = [];
        for (let i = 0; i < runs.length; i += 2) {
          for (let page = runs[i] as number; page < (runs[i] as number) + (runs[i + 1] as number); page++)
            pages.push(page);
        }
        expect(put.map(({ page }) => page)).toEqual(pages);
        for (const { page, where } of put) {
          expect([page, where]).toEqual([page, touched.at(0).has(page) ? 'mapping' : 'file']);
        }
      }),
      { numRuns: 500 },
    );
  });

  test('each run is one target', () => {
    const memory = memoryOf(FILE);
    const touched = new DirtyBitmaps(memory);
    touched.at(0).setRange(10, 5);
    const choice = new SinkChoice(new MemoryWindows(memory), touched);
    expect(choice.targets(0, [0, 20, 30, 4], true).map(({ length }) => length / PAGE)).toEqual([10, 5, 5, 4]);
    expect(choice.targets(0, [10, 5], true).map(({ length }) => length / PAGE)).toEqual([5]);
  });

  test.each([
    ['a stream that puts nothing into files', FILE, false],
    ['a block without a memory file', undefined, true],
  ] as const)('into the mapping with %s', (_, file, files) => {
    const memory = memoryOf(file);
    const targets = new SinkChoice(new MemoryWindows(memory), new DirtyBitmaps(memory)).targets(0, [3, 2, 7, 1], files);
    expect(pagesOf(targets)).toEqual([3, 4, 7].map((page) => ({ page, where: 'mapping' })));
  });
});
