import { type DirtyBitmap, GodwitError } from '@godwit/core';
import { SyscallError } from '@godwit/linux';
import { addressOf, Errno, StructBuffer } from '@godwit/linux/unstable';
import type { Descriptor } from '../descriptor.js';
import type { DmaMapping } from '../dma-space.js';
import { Type1, VFIO_DIRTY_BITMAP, VFIO_DIRTY_BITMAP_GET } from '../layouts/type1.js';
import { succeeded } from '../syscall-result.js';
import type { DirtyTrackingSupport } from './iommu-info.js';

/**
 * VFIO_IOMMU_DIRTY_PAGES: the pages that devices wrote through a type1 container (merged in Linux 5.8, May 2020: "vfio
 * iommu: Add ioctl definition for dirty pages tracking", K. Wankhede).
 */
export class Type1DirtyLog {
  /** Bytes per bit. */
  readonly pageSize: number;
  readonly maximumBitmapBytes: number;
  readonly #container: Descriptor;
  /** The request of reads on the event loop. */
  readonly #request = new GetBitmap();
  #running = false;

  constructor(container: Descriptor, support: DirtyTrackingSupport) {
    this.#container = container;
    this.pageSize = support.pageSize;
    this.maximumBitmapBytes = support.maximumBitmapBytes;
  }

  get running(): boolean {
    return this.#running;
  }

  /** Starts tracking. All pages begin clean, except those that drivers have pinned, which are dirty already. */
  async start(): Promise<void> {
    if (this.#running) throw new GodwitError('GODWIT_INVALID_STATE', 'dirty tracking of this container is on already');
    const result = await this.#control(Type1.VFIO_IOMMU_DIRTY_PAGES_FLAG_START);
    succeeded(result, 'VFIO_IOMMU_DIRTY_PAGES', 'START', {
      [Errno.EINVAL]: { advice: 'a mapping has more than 2^31 - 1 pages, or the container has no IOMMU set' },
    });
    this.#running = true;
  }

  /**
   * Stops tracking; bits that were not read are lost. Idempotent. The log of a closed container is gone with the container.
   */
  async stop(): Promise<void> {
    if (!this.#running) return;
    this.#running = false;
    if (!this.#container.isOpen) return;
    succeeded(await this.#control(Type1.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP), 'VFIO_IOMMU_DIRTY_PAGES', 'STOP');
  }

  /** Whether the kernel can return a bitmap for this many bytes of memory. */
  takes({ byteLength }: Pick<DmaMapping, 'byteLength'>): boolean {
    return bitmapBytesOf(byteLength, this.pageSize) <= this.maximumBitmapBytes;
  }

  /** @throws GodwitError GODWIT_LIMIT_EXCEEDED for a mapping whose bitmap the kernel would refuse */
  checkSize({ byteLength }: DmaMapping): void {
    if (this.takes({ byteLength })) return;
    const bitmapBytes = bitmapBytesOf(byteLength, this.pageSize);
    throw new GodwitError(
      'GODWIT_LIMIT_EXCEEDED',
      `the mapping of ${byteLength} bytes needs a bitmap of ${bitmapBytes}; the kernel gives ${this.maximumBitmapBytes}, ` +
        'and no bitmap of a part of a mapping. Map memory in smaller pieces',
    );
  }

  /**
   * Reads the bits of one mapping and clears them in the kernel; pages that are still pinned stay dirty there.
   *
   * A call always reads one whole mapping: with several mappings in one call Linux (seen in 6.12) shifts its own bitmap in
   * place and leaves bits that are reported as dirty pages in all later calls.
   *
   * @param bitmap of the mapping's pages, all clean: the kernel never writes holes. The caller masks bits past the last page
   * @returns 0, or minus errno: the bits may then be gone, so that every page of the mapping counts as dirty
   */
  async read(mapping: DmaMapping, bitmap: DirtyBitmap): Promise<number> {
    this.checkSize(mapping);
    const request = new GetBitmap().of(mapping, bitmap, this.pageSize);
    return this.#container.ioctlAsync(Type1.VFIO_IOMMU_DIRTY_PAGES, request);
  }

  /** Does the same in one call on the event loop. */
  readNow(mapping: DmaMapping, bitmap: DirtyBitmap): number {
    this.checkSize(mapping);
    return this.#container.ioctl(Type1.VFIO_IOMMU_DIRTY_PAGES, this.#request.of(mapping, bitmap, this.pageSize));
  }

  error({ iova, byteLength }: DmaMapping, result: number): Error {
    const asked = `GET_BITMAP of ${byteLength} bytes at IOVA 0x${iova.toString(16)}`;
    return new SyscallError('VFIO_IOMMU_DIRTY_PAGES', -result, asked);
  }

  #control(flag: number): Promise<number> {
    const argument = new StructBuffer(VFIO_DIRTY_BITMAP).set('argsz', VFIO_DIRTY_BITMAP.size).set('flags', flag);
    return this.#container.ioctlAsync(Type1.VFIO_IOMMU_DIRTY_PAGES, argument.bytes);
  }
}

/** The bytes of a bitmap, in whole words of 64 bits. */
function bitmapBytesOf(byteLength: number, pageSize: number): number {
  return Math.ceil(byteLength / pageSize / 64) * 8;
}

/** The argument of GET_BITMAP. */
class GetBitmap {
  readonly #head = new StructBuffer(VFIO_DIRTY_BITMAP, VFIO_DIRTY_BITMAP_GET.size)
    .set('argsz', VFIO_DIRTY_BITMAP.size + VFIO_DIRTY_BITMAP_GET.size)
    .set('flags', Type1.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP);
  readonly #get = new StructBuffer(VFIO_DIRTY_BITMAP_GET, this.#head.bytes.subarray(VFIO_DIRTY_BITMAP.size));

  of({ iova, byteLength }: DmaMapping, bitmap: DirtyBitmap, pageSize: number): Uint8Array {
    this.#get
      .set('iova', iova)
      .set('size', byteLength)
      .set('bitmap.pgsize', pageSize)
      .set('bitmap.size', bitmap.words.byteLength)
      .set('bitmap.data', addressOf(bitmap.bytes));
    return this.#head.bytes;
  }
}
