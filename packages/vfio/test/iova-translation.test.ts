import { DirtyBitmap, DirtyBitmaps, type GuestMemory } from '@godwit/core';
import type { DmaMapping } from '@godwit/vfio';
import { MappingTranslation, ramSegments } from '@godwit/vfio/unstable';
import { expect, test } from '@jest/globals';
import fc from 'fast-check';

function memoryOf(pageSize: number, blocks: readonly (readonly [address: number, byteLength: number])[]): GuestMemory {
  return {
    pageSize,
    blocks: blocks.map(([guestPhysicalAddress, byteLength], i) => ({
      id: String(i),
      guestPhysicalAddress,
      byteLength,
      view: () => {
        throw new Error('nobody reads');
      },
    })),
  };
}

/** Byte for byte what should be dirty: slow and plain. */
function naive(memory: GuestMemory, mapping: DmaMapping, dirty: ReadonlySet<number>, page: number): string[] {
  const pages = new Set<string>();
  for (const bit of dirty) {
    const start = mapping.guestPhysicalAddress + bit * page;
    const end = Math.min(start + page, mapping.guestPhysicalAddress + mapping.byteLength);
    for (let address = start; address < end; address += 512) {
      for (const [i, block] of memory.blocks.entries()) {
        const offset = address - block.guestPhysicalAddress;
        if (offset >= 0 && offset < block.byteLength) pages.add(`${i}:${Math.floor(offset / memory.pageSize)}`);
      }
    }
  }
  return [...pages].sort();
}

function found(bitmaps: DirtyBitmaps): string[] {
  return bitmaps.blocks
    .flatMap((bitmap, i) =>
      Array.from({ length: bitmap.pageCount }, (_, page) => (bitmap.has(page) ? `${i}:${page}` : '')),
    )
    .filter((name) => name !== '')
    .sort();
}

test('whatever the page sizes and borders, exactly the pages that dirty bits overlap become dirty', () => {
  const pageSizes = fc.constantFrom(1024, 4096, 8192);
  fc.assert(
    fc.property(
      pageSizes,
      pageSizes,
      fc.array(fc.record({ gap: fc.nat(5), pages: fc.integer({ min: 1, max: 150 }) }), { minLength: 1, maxLength: 3 }),
      fc.nat(200),
      fc.integer({ min: 1, max: 300 }),
      fc.array(fc.nat(), { maxLength: 60 }),
      (page, sourcePage, layout, start, length, picks) => {
        let address = 0;
        const blocks = layout.map(({ gap, pages }): [number, number] => {
          const at = address + gap * page;
          address = at + pages * page;
          return [at, pages * page];
        });
        const memory = memoryOf(page, blocks);
        const mapping = { iova: 2 ** 40, guestPhysicalAddress: start * sourcePage, byteLength: length * sourcePage };
        const dirty = new Set(picks.map((pick) => pick % length));
        const source = new DirtyBitmap(length);
        for (const bit of dirty) source.set(bit);
        const into = new DirtyBitmaps(memory);
        new MappingTranslation(mapping, memory, sourcePage).report(source, into);
        expect(found(into)).toEqual(naive(memory, mapping, dirty, sourcePage));
        // None past the end of a block either, where `has` and `count` do not look.
        for (const bitmap of into.blocks) {
          const words = bitmap.words.slice();
          bitmap.maskTail();
          expect(bitmap.words).toEqual(words);
        }

        const all = new DirtyBitmaps(memory);
        new MappingTranslation(mapping, memory, sourcePage).reportAll(all);
        expect(found(all)).toEqual(naive(memory, mapping, new Set(Array(length).keys()), sourcePage));
      },
    ),
    { numRuns: 400 },
  );
});

test('bits are ORed: what was dirty stays dirty', () => {
  const memory = memoryOf(4096, [[0, 100 * 4096]]);
  const into = new DirtyBitmaps(memory);
  into.at(0).setRange(0, 100);
  const mapping = { iova: 0, guestPhysicalAddress: 33 * 4096, byteLength: 40 * 4096 };
  new MappingTranslation(mapping, memory, 4096).report(new DirtyBitmap(40), into);
  expect(into.count()).toBe(100);
});

test('a mapping over two blocks and the hole between them has two segments', () => {
  const memory = memoryOf(4096, [
    [0x10_0000, 0x10_0000],
    [0x40_0000, 0x10_0000],
  ]);
  expect(ramSegments({ iova: 0, guestPhysicalAddress: 0x18_0000, byteLength: 0x30_0000 }, memory)).toEqual([
    { offset: 0, byteLength: 0x8_0000, blockIndex: 0, blockOffset: 0x8_0000 },
    { offset: 0x28_0000, byteLength: 0x8_0000, blockIndex: 1, blockOffset: 0 },
  ]);
});

test('memory of another device, mapped for peers, is no RAM', () => {
  const memory = memoryOf(4096, [[0, 0x10_0000]]);
  const mapping = { iova: 0xe000_0000, guestPhysicalAddress: 0xe000_0000, byteLength: 0x1000 };
  expect(ramSegments(mapping, memory)).toEqual([]);
});
