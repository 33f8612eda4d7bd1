import { type DirtyBitmap, GodwitError } from '@godwit/core';
import { SyscallError } from '@godwit/linux';
import { addressOf, StructBuffer } from '@godwit/linux/unstable';
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
 * The kernel (6.12) returns 0 without having read the log with tracking off, for a range that is not wholly mapped, and when
 * the bitmap cannot be written, in which case the bits are lost. This class therefore makes the checks that the kernel omits,
 * and touches bitmaps, by zeroing them, right before the call.
 *
 * @example
 * const table = iommufd.allocateTracking(node.deviceId, ioas);
 * node.attach(table);
 * const tracker = new IommufdTracker(table, memory);
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

  /** Whether dirty tracking is on. */
  get tracking(): boolean {
    return this.#tracking;
  }

  /** Turning it on forgets what was logged before. */
  async setTracking(on: boolean): Promise<void> {
    const argument = new StructBuffer(IOMMU_HWPT_SET_DIRTY_TRACKING)
      .set('size', IOMMU_HWPT_SET_DIRTY_TRACKING.size)
      .set('flags', on ? IommufdFlag.IOMMU_HWPT_DIRTY_TRACKING_ENABLE : 0)
      .set('hwpt_id', this.id);
    const result = await this.#owner.ioctlAsync(IommufdRequest.IOMMU_HWPT_SET_DIRTY_TRACKING, argument.bytes);
    succeeded(result, 'IOMMU_HWPT_SET_DIRTY_TRACKING', `${on ? 'on' : 'off'} for page table ${this.id}`);
    this.#tracking = on;
  }

  /**
   * Throws GODWIT_INVALID_ARGUMENT unless a mapping's log can be read in pages of this size: a power of two of which the
   * mapping's address and size are multiples.
   */
  checkPageSize({ iova, byteLength }: DmaMapping, pageSize: number): void {
    const powerOfTwo = pageSize > 0 && Number.isInteger(Math.log2(pageSize));
    if (powerOfTwo && iova % pageSize === 0 && byteLength % pageSize === 0) return;
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `the log of ${byteLength} bytes at IOVA 0x${iova.toString(16)} cannot be read in pages of ${pageSize} bytes`,
    );
  }

  /**
   * ORs the bits of one mapping into `bitmap`, and clears them in the page table (IOMMU_HWPT_GET_DIRTY_BITMAP).
   *
   * @param bitmap of the mapping's pages, zeroed right before the call: a bitmap whose memory is not populated yet would lose
   * the bits
   * @param pageSize bytes per bit; see `checkPageSize`. A page is dirty when any part of it is
   * @returns 0, or minus errno: every page of the mapping then counts as dirty
   * @throws GodwitError GODWIT_INVALID_STATE with tracking off
   */
  async read(mapping: DmaMapping, bitmap: DirtyBitmap, pageSize: number): Promise<number> {
    return this.#owner.ioctlAsync(IommufdRequest.IOMMU_HWPT_GET_DIRTY_BITMAP, this.#request(mapping, bitmap, pageSize));
  }

  /** Does the same in one call on the event loop. */
  readNow(mapping: DmaMapping, bitmap: DirtyBitmap, pageSize: number): number {
    return this.#owner.ioctl(IommufdRequest.IOMMU_HWPT_GET_DIRTY_BITMAP, this.#request(mapping, bitmap, pageSize));
  }

  /** The error for a dirty bitmap that could not be read: `result` is minus errno. */
  readError({ iova, byteLength }: DmaMapping, result: number): Error {
    const asked = `of ${byteLength} bytes at IOVA 0x${iova.toString(16)}`;
    return new SyscallError('IOMMU_HWPT_GET_DIRTY_BITMAP', -result, asked);
  }

  #request(mapping: DmaMapping, bitmap: DirtyBitmap, pageSize: number): Uint8Array {
    if (!this.#tracking) throw new GodwitError('GODWIT_INVALID_STATE', 'dirty tracking is off');
    this.checkPageSize(mapping, pageSize);
    return new StructBuffer(IOMMU_HWPT_GET_DIRTY_BITMAP)
      .set('size', IOMMU_HWPT_GET_DIRTY_BITMAP.size)
      .set('hwpt_id', this.id)
      .set('iova', mapping.iova)
      .set('length', mapping.byteLength)
      .set('page_size', pageSize)
      .set('data', addressOf(bitmap.bytes)).bytes;
  }
}
