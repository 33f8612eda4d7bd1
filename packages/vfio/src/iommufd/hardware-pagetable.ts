import { DirtyBitmap, GodwitError } from '@godwit/core';
import { addressOf, StructBuffer } from '@godwit/linux';
import type { DmaMapping } from '../dma-space.js';
import {
  IOMMU_HWPT_GET_DIRTY_BITMAP,
  IOMMU_HWPT_SET_DIRTY_TRACKING,
  IommufdFlag,
  IommufdRequest,
} from '../layouts/iommufd.js';
import { succeeded } from '../syscall-result.js';
import type { Ioas, IommufdOwner } from './ioas.js';

/**
 * A page table of the IOMMU's that can log which pages devices wrote through it (Linux 6.7).
 *
 * The kernel (6.12) answers 0 to questions that it has not answered: with tracking off, for a range that is not wholly mapped,
 * and when the bitmap cannot be written, in which case the bits are lost. So what it does not check is checked here, and every
 * bitmap is touched, by zeroing it, right before the call.
 */
export class HardwarePagetable {
  readonly id: number;
  readonly ioas: Ioas;
  readonly #owner: IommufdOwner;
  #tracking = false;

  constructor(owner: IommufdOwner, id: number, ioas: Ioas) {
    this.#owner = owner;
    this.id = id;
    this.ioas = ioas;
  }

  get tracking(): boolean {
    return this.#tracking;
  }

  /** Turning it on forgets what was logged before. */
  async setTracking(on: boolean): Promise<void> {
    const argument = new StructBuffer(IOMMU_HWPT_SET_DIRTY_TRACKING)
      .set('size', IOMMU_HWPT_SET_DIRTY_TRACKING.size)
      .set('flags', on ? IommufdFlag.IOMMU_HWPT_DIRTY_TRACKING_ENABLE : 0)
      .set('hwpt_id', this.id);
    const { fd, port } = this.#owner;
    const result = await port.ioctlAsync(fd, IommufdRequest.IOMMU_HWPT_SET_DIRTY_TRACKING, argument.bytes);
    succeeded(result, 'IOMMU_HWPT_SET_DIRTY_TRACKING', `${on ? 'on' : 'off'} for page table ${this.id}`);
    this.#tracking = on;
  }

  /**
   * What is needed to read the log of a mapping again and again, made once.
   *
   * @param pageSize bytes that a bit stands for: a power of two, and what the mapping is a multiple of. A page is dirty when any
   * part of it is
   */
  of(mapping: DmaMapping, pageSize: number): HardwareDirtyLog {
    return new HardwareDirtyLog(this.#owner, this, mapping, pageSize);
  }
}

/** IOMMU_HWPT_GET_DIRTY_BITMAP for one mapping. */
export class HardwareDirtyLog {
  readonly mapping: DmaMapping;
  /** What the last `read` found. */
  readonly bitmap: DirtyBitmap;
  readonly #owner: IommufdOwner;
  readonly #pagetable: HardwarePagetable;
  readonly #request: StructBuffer<keyof typeof IOMMU_HWPT_GET_DIRTY_BITMAP.fields>;

  constructor(owner: IommufdOwner, pagetable: HardwarePagetable, mapping: DmaMapping, pageSize: number) {
    const powerOfTwo = pageSize > 0 && Number.isInteger(Math.log2(pageSize));
    if (!powerOfTwo || mapping.iova % pageSize !== 0 || mapping.byteLength % pageSize !== 0) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        `the log of ${mapping.byteLength} bytes at IOVA 0x${mapping.iova.toString(16)} cannot be read in pages of ${pageSize} bytes`,
      );
    }
    this.mapping = mapping;
    this.#owner = owner;
    this.#pagetable = pagetable;
    this.bitmap = new DirtyBitmap(mapping.byteLength / pageSize);
    this.#request = new StructBuffer(IOMMU_HWPT_GET_DIRTY_BITMAP)
      .set('size', IOMMU_HWPT_GET_DIRTY_BITMAP.size)
      .set('hwpt_id', pagetable.id)
      .set('iova', mapping.iova)
      .set('length', mapping.byteLength)
      .set('page_size', pageSize)
      .set('data', addressOf(this.bitmap.bytes));
  }

  /**
   * Reads the bits into `bitmap`, and clears them in the page table unless `keep` says otherwise.
   *
   * @returns 0, or minus errno: every page of the mapping then counts as dirty
   * @throws GodwitError GODWIT_INVALID_STATE with tracking off, or when the mapping is gone
   */
  async read(options: { readonly keep?: boolean } = {}): Promise<number> {
    if (!this.#pagetable.tracking) throw new GodwitError('GODWIT_INVALID_STATE', 'dirty tracking is off');
    if (!this.#pagetable.ioas.mappings.includes(this.mapping)) {
      throw new GodwitError(
        'GODWIT_INVALID_STATE',
        `the mapping at IOVA 0x${this.mapping.iova.toString(16)} is gone: the kernel would say 0 to it`,
      );
    }
    this.#request.set('flags', options.keep === true ? IommufdFlag.IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR : 0);
    // The kernel ORs. And a bitmap whose memory is not there yet would lose the bits.
    this.bitmap.clearAll();
    const { fd, port } = this.#owner;
    const result = await port.ioctlAsync(fd, IommufdRequest.IOMMU_HWPT_GET_DIRTY_BITMAP, this.#request.bytes);
    this.bitmap.maskTail();
    return result;
  }
}
