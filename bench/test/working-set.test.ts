import { type DirtyBitmap, DirtyBitmaps } from '@godwit/core';
import { expect, test } from '@jest/globals';
import { Heat } from '../working-set/heat.js';
import { heatPicture } from '../working-set/heat-picture.js';

/** Pages that a guest uses, sample by sample, and the picture of them. */

const PAGES = 64;
const MEMORY = { pageSize: 4096, blocks: [{ byteLength: 32 * 4096 }, { byteLength: 32 * 4096 }] } as never;

/** The pages, counted from the first block on. */
function bitmaps(pages: readonly number[]): DirtyBitmaps {
  const made = new DirtyBitmaps(MEMORY);
  for (const page of pages) (made.at(page < 32 ? 0 : 1) as DirtyBitmap).set(page % 32);
  return made;
}

function heat(...samples: readonly (readonly [used: number[], written: number[]])[]): Heat {
  const made = new Heat(PAGES, 16);
  for (const [used, written] of samples) made.add(bitmaps(used), bitmaps(written));
  return made;
}

test('counts pages of all blocks in each sample, and over all', () => {
  const seen = heat([[0, 1, 40], [1]], [[1, 40, 63], [40]], [[1], []]);
  expect(seen.samples.map(({ usedPages, writtenPages }) => [usedPages, writtenPages])).toEqual([
    [3, 1],
    [3, 1],
    [1, 0],
  ]);
  expect([1, 2, 3].map((times) => seen.pagesUsedIn(times))).toEqual([4, 2, 1]);
});

test('the shares of a part: four pages each here', () => {
  const [sample] = heat([[0, 1, 40], [1]]).samples;
  expect(sample?.cells[0]).toEqual({ used: 0.5, written: 0.25 });
  expect(sample?.cells[10]).toEqual({ used: 0.25, written: 0 });
  expect(sample?.cells.filter(({ used }) => used > 0)).toHaveLength(2);
});

test('the hottest pages that have a share of all uses', () => {
  const seen = heat([[5, 6, 7], []], [[5, 6], []], [[5], []], [[5], []]);
  expect([0, 0.5, 0.6, 0.9, 1].map((share) => seen.hottestWith(share))).toEqual([0, 1, 2, 3, 3]);
  expect(heat([[], []]).hottestWith(0.9)).toBe(0);
});

test('the picture: what was written is red, what was only read is blue, neighbours of one colour are one box', () => {
  const all = Array.from({ length: 8 }, (_, page) => page);
  const { samples } = heat([[...all, 40], all]);
  const picture = heatPicture({ title: 'a guest', samples, intervalMs: 100, memoryBytes: 2 ** 28 });
  const drawn = [...picture.matchAll(/<rect x="([\d.]+)" y="56" width="([\d.]+)" height="11" fill="hsl\((\d+),/g)];
  expect(drawn.map(([, x, width, hue]) => [Number(x), Number(width), Number(hue)])).toEqual([
    [70, 128, 355],
    [70 + 640, 64, 215],
  ]);
  expect(picture).toContain('>256 MiB<');
});
