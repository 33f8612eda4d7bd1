import { Errno, StructBuffer } from '@godwit/linux';
import type { DmaMapping, DmaSpace, UnmapListener } from '../dma-space.js';
import type { KernelPort } from '../kernel-port.js';
import {
  IOMMU_IOAS_IOVA_RANGES,
  IOMMU_IOAS_MAP,
  IOMMU_IOAS_UNMAP,
  IommufdFlag,
  IommufdRequest,
} from '../layouts/iommufd.js';
import { checkMapping, MappingList } from '../mapping-list.js';
import { succeeded } from '../syscall-result.js';
import type { MapRequest } from '../type1/type1-container.js';

/** What an address space needs of the iommufd that it is in. */
export interface IommufdOwner {
  readonly fd: number;
  readonly port: KernelPort;
}

/** An I/O address space of an iommufd. */
export class Ioas implements DmaSpace {
  readonly id: number;
  readonly #owner: IommufdOwner;
  readonly #list = new MappingList();

  constructor(owner: IommufdOwner, id: number) {
    this.#owner = owner;
    this.id = id;
  }

  get mappings(): readonly DmaMapping[] {
    return this.#list.mappings;
  }

  listen(listener: UnmapListener): () => void {
    return this.#list.listen(listener);
  }

  /** Bytes that addresses and sizes are multiples of; grows when a device with larger pages is attached. */
  alignment(): number {
    const ranges = new StructBuffer(IOMMU_IOAS_IOVA_RANGES)
      .set('size', IOMMU_IOAS_IOVA_RANGES.size)
      .set('ioas_id', this.id);
    const result = this.#owner.port.ioctl(this.#owner.fd, IommufdRequest.IOMMU_IOAS_IOVA_RANGES, ranges.bytes);
    // No room was given for the ranges themselves, which is not what was asked.
    if (result !== -Errno.EMSGSIZE) succeeded(result, 'IOMMU_IOAS_IOVA_RANGES', `of ${this.id}`);
    return ranges.get('out_iova_alignment');
  }

  /** Maps memory at a fixed address and pins it, on a pool thread. The same errors as `Type1Container.map`. */
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
    const { fd, port } = this.#owner;
    const result = await port.ioctlAsync(fd, IommufdRequest.IOMMU_IOAS_MAP, argument.bytes);
    succeeded(result, 'IOMMU_IOAS_MAP', described(mapping), {
      [Errno.EEXIST]: { code: 'GODWIT_INVALID_ARGUMENT', advice: 'it overlaps a mapping' },
      [Errno.EINVAL]: { code: 'GODWIT_INVALID_ARGUMENT' },
      [Errno.ENOMEM]: {
        advice: 'memory for DMA is locked; raise `ulimit -l` (RLIMIT_MEMLOCK) by the size of the guest',
      },
    });
    this.#list.add(mapping);
    return mapping;
  }

  /**
   * Unmaps one whole mapping. There is no call that unmaps and reads the dirty bits in one step: trackers read them before,
   * and then take all of the mapping for dirty, since a device may write in between.
   */
  async unmap(which: Pick<DmaMapping, 'iova' | 'byteLength'>): Promise<void> {
    const mapping = this.#list.find(which);
    await this.#list.unmapping(mapping);
    const argument = new StructBuffer(IOMMU_IOAS_UNMAP)
      .set('size', IOMMU_IOAS_UNMAP.size)
      .set('ioas_id', this.id)
      .set('iova', mapping.iova)
      .set('length', mapping.byteLength);
    const { fd, port } = this.#owner;
    const result = await port.ioctlAsync(fd, IommufdRequest.IOMMU_IOAS_UNMAP, argument.bytes);
    if (result < 0) {
      this.#list.lost(mapping, null);
      succeeded(result, 'IOMMU_IOAS_UNMAP', described(mapping));
    }
    this.#list.unmapped(mapping, null);
  }
}

function described({ iova, byteLength }: DmaMapping): string {
  return `of ${byteLength} bytes at IOVA 0x${iova.toString(16)}`;
}
