import { Errno } from '@godwit/linux/unstable';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { DmaContainer } from '../guest/dma-container.js';
import { PAGE, PageMemory } from '../guest/page-memory.js';

/** The test device, on which every other suite relies, writes the bytes that it is told to write, and no others. */

const IOVA = 0x10_0000;
const PAGES = 16;
let container: DmaContainer;
let memory: PageMemory;

beforeEach(() => {
  container = new DmaContainer();
  memory = new PageMemory(PAGES);
  container.map(IOVA, memory.address, memory.byteLength);
});
afterEach(() => {
  container.close();
  memory.free();
});

test('vfio_dma_rw: the bytes arrive, across a page boundary, and can be read back', () => {
  const text = new TextEncoder().encode('over the edge of a page');
  expect(container.device().write(IOVA + PAGE - 4, text)).toBe(0);
  expect(memory.bytes.subarray(PAGE - 4, PAGE - 4 + text.length)).toEqual(text);
  const back = new Uint8Array(text.length);
  expect(container.device().read(IOVA + PAGE - 4, back)).toBe(0);
  expect(back).toEqual(text);
});

test('vfio_dma_rw outside every mapping is refused', () => {
  expect(container.device().write(IOVA + PAGES * PAGE, new Uint8Array(1))).toBe(-Errno.EINVAL);
});

test('pinned pages: the bytes arrive, and only in pages that are pinned', () => {
  const device = container.device();
  const text = new TextEncoder().encode('past the kernel');
  expect(device.pin(IOVA + PAGE, 2)).toBe(0);
  expect(device.pin(IOVA + 2 * PAGE, 1)).toBe(-Errno.EEXIST);
  expect(device.writePinned(IOVA + 2 * PAGE - 4, text)).toBe(0);
  expect(memory.bytes.subarray(2 * PAGE - 4, 2 * PAGE - 4 + text.length)).toEqual(text);
  expect(device.writePinned(IOVA + 3 * PAGE - 1, new Uint8Array(2))).toBe(-Errno.ENXIO);
  expect(memory.bytes[3 * PAGE - 1]).toBe(0);
  expect(device.unpin(IOVA + 2 * PAGE, 2)).toBe(-Errno.ENXIO);
  expect(device.unpin(IOVA + PAGE, 2)).toBe(0);
  expect(device.writePinned(IOVA + PAGE, text)).toBe(-Errno.ENXIO);
});

test('exactly the pages that it writes are dirty', () => {
  const device = container.device();
  container.start();
  expect(container.dirty(IOVA, PAGES)).toEqual([]);
  device.write(IOVA + 3 * PAGE, new Uint8Array(2 * PAGE + 1));
  expect(container.dirty(IOVA, PAGES)).toEqual([3, 4, 5]);
  expect(container.dirty(IOVA, PAGES)).toEqual([]);
});
