import { linuxKernel, Type1 } from '@godwit/vfio/unstable';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { errnoOrResult } from '../conformance/conformance-row.js';
import { DmaContainer } from '../guest/dma-container.js';
import { FailingAllocation } from '../guest/failing-allocation.js';
import { PAGE, PageMemory } from '../guest/page-memory.js';
import { DirtyPages, getBitmapArgument, packed, u32, u64, withAddress } from '../guest/vfio-calls.js';

/** The rows of the type1 container that need a kernel without free memory: here one allocation at a time fails. */

let failing: FailingAllocation;
let memory: PageMemory;
let container: DmaContainer;
beforeAll(() => {
  failing = new FailingAllocation();
  memory = new PageMemory(16);
});
afterAll(() => {
  failing.close();
  memory.free();
});
beforeEach(() => {
  container = new DmaContainer(['mtty-2']);
});
afterEach(() => container.close());

/** Makes the call with its nth allocation failing; JavaScript has allocated everything for the call before. */
function answer(nth: number, request: number, argument: Uint8Array): string | number {
  const { fd } = container;
  linuxKernel.ioctl(fd, 0x3bff, argument);
  return errnoOrResult(failing.during(nth, () => linuxKernel.ioctl(fd, request, argument)));
}

test('VFIO_IOMMU_DIRTY_PAGES: row S: START without memory for the bitmaps: ENOMEM, and tracking is off', () => {
  container.map(0, memory.address, 8 * PAGE);
  container.map(64 * PAGE, memory.address, 8 * PAGE);
  const start = u32(8, DirtyPages.START);
  // One bitmap is allocated for each mapping: a first, a second, and no third.
  expect(answer(1, Type1.VFIO_IOMMU_DIRTY_PAGES, start)).toBe('ENOMEM');
  expect(answer(2, Type1.VFIO_IOMMU_DIRTY_PAGES, start)).toBe('ENOMEM');
  const bitmap = new Uint8Array(8);
  const get = () =>
    withAddress(bitmap, (data) =>
      linuxKernel.ioctl(
        container.fd,
        Type1.VFIO_IOMMU_DIRTY_PAGES,
        getBitmapArgument({ iova: 0, size: 8 * PAGE, data }),
      ),
    );
  expect(errnoOrResult(get())).toBe('EINVAL');
  expect(answer(3, Type1.VFIO_IOMMU_DIRTY_PAGES, start)).toBe(0);
  expect(get()).toBe(0);
});

test('VFIO_IOMMU_MAP_DMA without memory for the mapping: ENOMEM, and nothing is mapped', () => {
  const map = packed(u32(32, 3), u64(memory.address, 0, 8 * PAGE));
  expect(answer(1, Type1.VFIO_IOMMU_MAP_DMA, map)).toBe('ENOMEM');
  expect(answer(2, Type1.VFIO_IOMMU_MAP_DMA, map)).toBe(0);
});

test('VFIO_IOMMU_MAP_DMA while tracking, without memory for the bitmap: ENOMEM, and nothing is mapped', () => {
  container.start();
  const map = packed(u32(32, 3), u64(memory.address, 0, 8 * PAGE));
  expect(answer(2, Type1.VFIO_IOMMU_MAP_DMA, map)).toBe('ENOMEM');
  expect(answer(3, Type1.VFIO_IOMMU_MAP_DMA, map)).toBe(0);
});
