import { DirtyBitmap, GodwitError } from '@godwit/core';
import { addressOf, Errno, StructBuffer } from '@godwit/linux';
import type { DmaMapping } from '../dma-space.js';
import type { KernelPort } from '../kernel-port.js';
import { Type1, VFIO_DIRTY_BITMAP, VFIO_DIRTY_BITMAP_GET } from '../layouts/type1.js';
import { succeeded } from '../syscall-result.js';
import type { DirtyTrackingSupport } from './iommu-info.js';

/**
 * VFIO_IOMMU_DIRTY_PAGES: which pages devices wrote through a type1 container (merged in Linux 5.8, May 2020: "vfio iommu:
 * Add ioctl definition for dirty pages tracking", K. Wankhede).
 */
export class Type1DirtyLog {
  /** Bytes that a bit stands for. */
  readonly pageSize: number;
  readonly maximumBitmapBytes: number;
  readonly #port: KernelPort;
  readonly #container: number;
  #running = false;

  constructor(port: KernelPort, container: number, support: DirtyTrackingSupport) {
    this.#port = port;
    this.#container = container;
    this.pageSize = support.pageSize;
    this.maximumBitmapBytes = support.maximumBitmapBytes;
  }

  get running(): boolean {
    return this.#running;
  }

  /** Begins clean, but for pages that drivers have pinned: those are dirty already. */
  async start(): Promise<void> {
    if (this.#running) throw new GodwitError('GODWIT_INVALID_STATE', 'dirty tracking of this container is on already');
    const result = await this.#control(Type1.VFIO_IOMMU_DIRTY_PAGES_FLAG_START);
    succeeded(result, 'VFIO_IOMMU_DIRTY_PAGES', 'START', {
      [Errno.EINVAL]: { advice: 'a mapping has more than 2^31 - 1 pages, or the container has no IOMMU set' },
    });
    this.#running = true;
  }

  /** Everything not yet read is forgotten. Idempotent. */
  async stop(): Promise<void> {
    if (!this.#running) return;
    this.#running = false;
    succeeded(await this.#control(Type1.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP), 'VFIO_IOMMU_DIRTY_PAGES', 'STOP');
  }

  /**
   * What is needed to read the log of a mapping again and again, made once.
   *
   * @throws GodwitError GODWIT_LIMIT_EXCEEDED for a mapping whose bitmap the kernel would refuse
   */
  of(mapping: DmaMapping): MappingDirtyLog {
    return new MappingDirtyLog(this, mapping, (argument) =>
      this.#port.ioctlAsync(this.#container, Type1.VFIO_IOMMU_DIRTY_PAGES, argument),
    );
  }

  #control(flag: number): Promise<number> {
    const argument = new StructBuffer(VFIO_DIRTY_BITMAP).set('argsz', VFIO_DIRTY_BITMAP.size).set('flags', flag);
    return this.#port.ioctlAsync(this.#container, Type1.VFIO_IOMMU_DIRTY_PAGES, argument.bytes);
  }
}

/** GET_BITMAP for one mapping. */
export class MappingDirtyLog {
  readonly mapping: DmaMapping;
  /** What the last `read` found. */
  readonly bitmap: DirtyBitmap;
  readonly #request: Uint8Array;
  readonly #get: (request: Uint8Array) => Promise<number>;

  constructor(log: Type1DirtyLog, mapping: DmaMapping, get: (request: Uint8Array) => Promise<number>) {
    const { pageSize, maximumBitmapBytes } = log;
    this.mapping = mapping;
    this.bitmap = new DirtyBitmap(mapping.byteLength / pageSize);
    const bitmapBytes = this.bitmap.words.byteLength;
    if (bitmapBytes > maximumBitmapBytes) {
      throw new GodwitError(
        'GODWIT_LIMIT_EXCEEDED',
        `the mapping of ${mapping.byteLength} bytes needs a bitmap of ${bitmapBytes}; the kernel gives ${maximumBitmapBytes}, ` +
          'and no bitmap of a part of a mapping. Map memory in smaller pieces',
      );
    }
    const request = new StructBuffer(VFIO_DIRTY_BITMAP, VFIO_DIRTY_BITMAP_GET.size);
    request
      .set('argsz', VFIO_DIRTY_BITMAP.size + VFIO_DIRTY_BITMAP_GET.size)
      .set('flags', Type1.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP);
    new StructBuffer(VFIO_DIRTY_BITMAP_GET, request.bytes.subarray(VFIO_DIRTY_BITMAP.size))
      .set('iova', mapping.iova)
      .set('size', mapping.byteLength)
      .set('bitmap.pgsize', pageSize)
      .set('bitmap.size', bitmapBytes)
      .set('bitmap.data', addressOf(this.bitmap.bytes));
    this.#request = request.bytes;
    this.#get = get;
  }

  /**
   * Reads the bits into `bitmap` and clears them in the kernel; pages that are still pinned stay dirty there.
   *
   * Always the whole mapping from its own IOVA on: with several mappings in one call Linux (seen in 6.12) shifts its own
   * bitmap in place and leaves bits behind that come back as dirty pages ever after. The buffer is zeroed, since the
   * kernel never writes holes; bits past the last page are masked.
   *
   * @returns 0, or minus errno: the bits may then be gone, so that every page of the mapping counts as dirty
   */
  async read(): Promise<number> {
    this.bitmap.clearAll();
    const result = await this.#get(this.#request);
    this.bitmap.maskTail();
    return result;
  }
}
