import { Errno } from '@godwit/linux/unstable';
import { Type1 } from '@godwit/vfio/unstable';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { DmaContainer, setBits } from '../guest/dma-container.js';
import type { DmaDevice } from '../guest/dma-device.js';
import { PAGE, PageMemory } from '../guest/page-memory.js';
import { RowPlace } from '../guest/row-place.js';
import { call, DirtyPages, dirtyPages, getBitmapArgument, unmapDma, withAddress } from '../guest/vfio-calls.js';

/**
 * What the bits of VFIO_IOMMU_DIRTY_PAGES mean, where no document tells it. The behaviour was observed in Linux 6.12,
 * and @godwit/vfio relies on it.
 */

const IOVA = 0x10_0000;
const PAGES = 128;
const byte = new Uint8Array(1);
let place: RowPlace;
let container: DmaContainer;
let memory: PageMemory;
let device: DmaDevice;

beforeAll(() => {
  place = new RowPlace(PAGE);
});
afterAll(() => place.free());
beforeEach(() => {
  container = new DmaContainer();
  memory = new PageMemory(PAGES);
  device = container.device();
});
afterEach(() => {
  container.close();
  memory.free();
});

function mapAll(): void {
  container.map(IOVA, memory.address, PAGES * PAGE);
}
const harvest = (): number[] => container.dirty(IOVA, PAGES);
const at = (page: number): number => IOVA + page * PAGE;

/** GET_BITMAP over these pages into `bitmap`, which is not cleared before. */
function getInto(bitmap: Uint8Array, pages: number, iova = IOVA): number {
  return withAddress(bitmap, (data) => {
    const get = { iova, size: pages * PAGE, bitmapSize: bitmap.byteLength, data };
    return call(container, Type1.VFIO_IOMMU_DIRTY_PAGES, getBitmapArgument(get));
  });
}

test('a page written by vfio_dma_rw is dirty once', () => {
  mapAll();
  container.start();
  device.write(at(5), byte);
  expect([harvest(), harvest()]).toEqual([[5], []]);
});

test('a pinned page is dirty at every harvest; once it is unpinned it is once more, and then no longer', () => {
  mapAll();
  container.start();
  device.pin(at(7), 2);
  expect([harvest(), harvest()]).toEqual([
    [7, 8],
    [7, 8],
  ]);
  device.unpin(at(7), 2);
  expect([harvest(), harvest()]).toEqual([[7, 8], []]);
});

test('a page that was pinned and unpinned between two harvests is dirty once', () => {
  mapAll();
  container.start();
  device.pin(at(3), 1);
  device.unpin(at(3), 1);
  expect([harvest(), harvest()]).toEqual([[3], []]);
});

test('START finds the pages that are pinned already, and not what was written before', () => {
  mapAll();
  device.pin(at(100), 1);
  device.write(at(1), byte);
  container.start();
  expect(harvest()).toEqual([100]);
});

test('START while tracking is on forgets nothing', () => {
  mapAll();
  container.start();
  device.write(at(2), byte);
  container.start();
  expect(harvest()).toEqual([2]);
});

test('STOP forgets what was not harvested', () => {
  mapAll();
  container.start();
  device.pin(at(4), 1);
  device.write(at(2), byte);
  container.stop();
  container.start();
  expect(harvest()).toEqual([4]);
});

test('writes of the processor are nobody’s business here', () => {
  mapAll();
  container.start();
  memory.bytes.fill(1);
  expect(harvest()).toEqual([]);
});

test('a mapping made while tracking is on begins clean', () => {
  container.start();
  mapAll();
  expect(harvest()).toEqual([]);
  device.write(at(127), byte);
  expect(harvest()).toEqual([127]);
});

test('the bitmap is overwritten, not ORed into', () => {
  mapAll();
  container.start();
  const bitmap = new Uint8Array(16).fill(0xff);
  expect(getInto(bitmap, PAGES)).toBe(0);
  expect(setBits(bitmap)).toEqual([]);
});

test('holes are not written: what was in the buffer stays', () => {
  container.map(at(64), memory.address, 64 * PAGE);
  container.start();
  device.write(at(70), byte);
  const bitmap = new Uint8Array(16).fill(0xff);
  expect(getInto(bitmap, 128)).toBe(0);
  expect([...bitmap]).toEqual([...Array(8).fill(0xff), 1 << 6, ...Array(7).fill(0)]);
});

test('the word that a mapping begins in the middle of is ORed: the buffer has to be zeroed', () => {
  container.map(at(8), memory.address, 8 * PAGE);
  container.start();
  device.write(at(9), byte);
  const bitmap = new Uint8Array(8);
  bitmap[0] = 0x55;
  expect(getInto(bitmap, 16)).toBe(0);
  expect([...bitmap.subarray(0, 2)]).toEqual([0x55, 0b10]);
});

test('several mappings in one GET, not aligned to 64 pages: 6.12 leaves bits behind, which come back as dirty pages', () => {
  container.map(at(0), memory.address, PAGE);
  container.map(at(1), memory.address + BigInt(PAGE), PAGE);
  container.start();
  const written = (): number => {
    device.write(at(1), byte);
    const bitmap = new Uint8Array(8);
    expect(getInto(bitmap, 2)).toBe(0);
    return bitmap[0] as number;
  };
  const seen = [written(), written(), written(), written()];
  // No dirty page counts as clean, but each harvest has one more false bit, beyond the range too.
  expect(seen).toEqual([0x2, 0x6, 0xe, 0x1e]);
});

test('one GET for each mapping from its own IOVA: no bits are left behind', () => {
  container.map(at(0), memory.address, PAGE);
  container.map(at(1), memory.address + BigInt(PAGE), PAGE);
  container.start();
  device.write(at(1), byte);
  const each = () => [container.dirty(at(0), 1), container.dirty(at(1), 1)];
  expect([each(), each()]).toEqual([
    [[], [0]],
    [[], []],
  ]);
});

test('a GET that fails halfway has lost the bits before: every page of the range has to count as dirty', () => {
  container.map(at(0), memory.address, 64 * PAGE);
  container.map(at(64), memory.address + BigInt(64 * PAGE), 64 * PAGE);
  container.start();
  device.write(at(1), byte);
  device.write(at(65), byte);
  // The second word of the bitmap is at an address that cannot be written.
  const data = place.unmapped - 8n;
  const get = getBitmapArgument({ iova: IOVA, size: PAGES * PAGE, bitmapSize: 16, data });
  expect(call(container, Type1.VFIO_IOMMU_DIRTY_PAGES, get)).toBe(-Errno.EFAULT);
  expect(container.dirty(IOVA, 64)).toEqual([]);
  expect(container.dirty(at(64), 64)).toEqual([1]);
});

/** UNMAP_DMA of pages from `from` on, with their dirty bits. */
function unmapWithBits(from: number, pages: number, data: bigint): { readonly result: number; readonly size: number } {
  const bitmap = { pgsize: PAGE, size: Math.ceil(pages / 64) * 8, data };
  return unmapDma(container, { iova: at(from), size: pages * PAGE, bitmap });
}

test('UNMAP with GET_DIRTY_BITMAP hands over the last bits, pinned pages included, which the driver lets go of first', () => {
  mapAll();
  container.start();
  device.write(at(1), byte);
  device.pin(at(2), 1);
  const bitmap = new Uint8Array(16);
  const unmapped = withAddress(bitmap, (data) => unmapWithBits(0, PAGES, data));
  expect(unmapped).toEqual({ result: 0, size: PAGES * PAGE });
  expect(setBits(bitmap)).toEqual([1, 2]);
  expect(device.unpin(at(2), 1)).toBe(-Errno.ENXIO);
});

test('UNMAP whose bitmap cannot be written: that mapping stays, those before it in the range are gone, no size comes back', () => {
  container.map(at(0), memory.address, 64 * PAGE);
  container.map(at(64), memory.address + BigInt(64 * PAGE), 64 * PAGE);
  container.start();
  expect(unmapWithBits(0, PAGES, place.unmapped - 8n)).toEqual({ result: -Errno.EFAULT, size: PAGES * PAGE });
  expect(device.write(at(0), byte)).toBe(-Errno.EINVAL);
  expect(device.write(at(64), byte)).toBe(0);
});

test('STOP ends it: GET is refused', () => {
  mapAll();
  container.start();
  expect(dirtyPages(container, DirtyPages.STOP)).toBe(0);
  expect(getInto(new Uint8Array(16), PAGES)).toBe(-Errno.EINVAL);
});
