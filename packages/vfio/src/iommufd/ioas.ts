import { checkOptions } from '@godwit/core';
import { Errno, type IoctlArgument, StructBuffer } from '@godwit/linux/unstable';
import { AddressSpace, checkMapping, type Unmapped } from '../address-space.js';
import type { DmaMapping, DmaSpace, MappingRead, UnmapListener } from '../dma-space.js';
import {
  IOMMU_IOAS_IOVA_RANGES,
  IOMMU_IOAS_MAP,
  IOMMU_IOAS_UNMAP,
  IommufdFlag,
  IommufdRequest,
} from '../layouts/iommufd.js';
import { PinnedMappings } from '../pinned-mappings.js';
import { succeeded } from '../syscall-result.js';
import type { MapRequest } from '../type1/type1-container.js';

/** The iommufd of an address space or a page table: makes calls on it, which fail once it is closed. */
export interface IommufdOwner {
  /** ioctl(2) on the iommufd. Returns its result, or minus errno. */
  ioctl(request: number, argument?: IoctlArgument): number;
  /** Makes the call on a pool thread, for calls that take long. */
  ioctlAsync(request: number, argument?: IoctlArgument): Promise<number>;
}

/** Options of an unmapping. */
export interface UnmapOptions {
  /**
   * Says that all devices of this address space are stopped and cannot write until the unmap is over. The mapping's dirty
   * bits right before the unmap are then exact. Default false.
   */
  readonly stopped?: boolean;
}

/**
 * An I/O address space of an iommufd.
 *
 * @example
 * const ioas = iommufd.allocateIoas();
 * await ioas.map({ iova: 0, byteLength: ram.byteLength, hostAddress: ram.hostAddress });
 */
export class Ioas implements DmaSpace {
  readonly id: number;
  readonly #owner: IommufdOwner;
  readonly #space = new AddressSpace();
  readonly #pins = new PinnedMappings();

  constructor(owner: IommufdOwner, id: number) {
    this.#owner = owner;
    this.id = id;
  }

  get mappings(): readonly DmaMapping[] {
    return this.#space.mappings;
  }

  get idle(): boolean {
    return this.#space.idle;
  }

  isMapped(mapping: DmaMapping): boolean {
    return this.#space.isMapped(mapping);
  }

  listen(listener: UnmapListener): () => void {
    return this.#space.listen(listener);
  }

  between<T>(step: () => Promise<T>): Promise<T> {
    return this.#space.between(step);
  }

  changesDone(): Promise<DmaMapping | null> {
    return this.#space.changesDone();
  }

  reading(mapping: DmaMapping): MappingRead {
    return this.#space.reading(mapping);
  }

  /** The bytes of which addresses and sizes must be multiples; they grow when a device with larger pages is attached. */
  alignment(): number {
    const ranges = new StructBuffer(IOMMU_IOAS_IOVA_RANGES)
      .set('size', IOMMU_IOAS_IOVA_RANGES.size)
      .set('ioas_id', this.id);
    const result = this.#owner.ioctl(IommufdRequest.IOMMU_IOAS_IOVA_RANGES, ranges.bytes);
    // EMSGSIZE is expected, since no room was given for the ranges themselves.
    if (result !== -Errno.EMSGSIZE) succeeded(result, 'IOMMU_IOAS_IOVA_RANGES', `of ${this.id}`);
    return ranges.get('out_iova_alignment');
  }

  /**
   * Maps memory at a fixed address and pins it, on a pool thread, after all changes that were requested before. Errors and
   * the effect on discarding are those of `Type1Container.map`.
   */
  async map(request: MapRequest): Promise<DmaMapping> {
    const { iova, byteLength, guestPhysicalAddress, hostAddress, writable = true } = request;
    const mapping: DmaMapping = { iova, byteLength, guestPhysicalAddress };
    checkMapping(mapping, this.alignment());
    const { IOMMU_IOAS_MAP_FIXED_IOVA, IOMMU_IOAS_MAP_READABLE, IOMMU_IOAS_MAP_WRITEABLE } = IommufdFlag;
    const argument = new StructBuffer(IOMMU_IOAS_MAP)
      .set('size', IOMMU_IOAS_MAP.size)
      .set('flags', IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE | (writable ? IOMMU_IOAS_MAP_WRITEABLE : 0))
      .set('ioas_id', this.id)
      .set('user_va', hostAddress)
      .set('length', byteLength)
      .set('iova', iova);
    return this.#space.map(mapping, async () => {
      const result = await this.#pins.pinnedBy(mapping, hostAddress, () =>
        this.#owner.ioctlAsync(IommufdRequest.IOMMU_IOAS_MAP, argument.bytes),
      );
      if (result >= 0) return;
      succeeded(result, 'IOMMU_IOAS_MAP', described(mapping), {
        [Errno.EEXIST]: { code: 'GODWIT_INVALID_ARGUMENT', advice: 'it overlaps a mapping' },
        [Errno.EINVAL]: { code: 'GODWIT_INVALID_ARGUMENT' },
        [Errno.ENOMEM]: {
          advice: 'memory for DMA is locked; raise `ulimit -l` (RLIMIT_MEMLOCK) by the size of the guest',
        },
      });
    });
  }

  /**
   * Unmaps one whole mapping, after all changes that were requested before. No call unmaps and reads the dirty bits in one
   * step, and a device may write between the two: trackers take all of the mapping for dirty, unless `stopped` says that its
   * devices are stopped.
   */
  async unmap(which: Pick<DmaMapping, 'iova' | 'byteLength'>, options: UnmapOptions = {}): Promise<void> {
    checkOptions<UnmapOptions>('unmap', options, { stopped: true });
    const { stopped = false } = options;
    const { mapping, result } = await this.#space.unmap(which, stopped, (found) => this.#unmap(found));
    succeeded(result, 'IOMMU_IOAS_UNMAP', described(mapping));
  }

  /** The iommufd is closed, and all mappings are gone with it. */
  closed(): void {
    this.#pins.releaseAll();
  }

  async #unmap(mapping: DmaMapping): Promise<Unmapped> {
    const argument = new StructBuffer(IOMMU_IOAS_UNMAP)
      .set('size', IOMMU_IOAS_UNMAP.size)
      .set('ioas_id', this.id)
      .set('iova', mapping.iova)
      .set('length', mapping.byteLength);
    const result = await this.#owner.ioctlAsync(IommufdRequest.IOMMU_IOAS_UNMAP, argument.bytes);
    if (result >= 0) this.#pins.release(mapping);
    return { result, dirty: null, byteLength: result < 0 ? 0 : argument.get('length') };
  }
}

function described({ iova, byteLength }: DmaMapping): string {
  return `of ${byteLength} bytes at IOVA 0x${iova.toString(16)}`;
}
