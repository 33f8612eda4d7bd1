import { Errno, StructBuffer, type StructLayout } from '@godwit/linux/unstable';
import {
  IOMMU_DESTROY,
  IOMMU_HW_INFO,
  IOMMU_HWPT_ALLOC,
  IOMMU_HWPT_GET_DIRTY_BITMAP,
  IOMMU_HWPT_SET_DIRTY_TRACKING,
  IOMMU_IOAS_ALLOC,
  IOMMU_IOAS_IOVA_RANGES,
  IOMMU_IOAS_MAP,
  IOMMU_IOAS_UNMAP,
  IommufdFlag,
  IommufdRequest,
} from '../layouts/iommufd.js';
import { copyFromUser, copyToUser } from './user-memory.js';

const TWO_64 = 1n << 64n;
const ALL = TWO_64 - 1n;
/** MOCK_IO_PAGE_SIZE, MOCK_APERTURE_START and MOCK_APERTURE_LAST of drivers/iommu/iommufd/iommufd_test.h. */
const IOMMU_PAGE = 2048n;
const APERTURE = { start: 0x100_0000n, last: 0x7fff_ffffn } as const;

interface Space {
  readonly kind: 'ioas';
  /** By IOVA. */
  readonly areas: { readonly iova: bigint; readonly end: bigint }[];
}

interface Pagetable {
  readonly kind: 'hwpt';
  readonly space: Space;
  readonly logs: boolean;
  tracking: boolean;
  /** The dirty pages, in the IOMMU's page size. */
  readonly dirty: Set<bigint>;
}

interface Device {
  readonly kind: 'device';
  readonly logs: boolean;
}

/** A device behind the model's IOMMU, as iommufd's mock devices are. */
export interface IommufdModelDevice {
  /** The number that a VFIO device would have after BIND_IOMMUFD. */
  readonly deviceId: number;
  /** Attaches the device to an address space or a page table; returns 0, or minus errno. */
  attach(id: number): number;
  /**
   * Writes by DMA; returns the number of pages of a page table that became dirty, or minus errno (EINVAL with tracking
   * off).
   */
  write(pagetable: number, iova: number, byteLength: number): number;
}

/**
 * iommufd of Linux 6.12 with its mock IOMMU: the checks in their order, and what is dirty when. It returns 0 where the
 * kernel does so without having read the log: with tracking off, past the end of what is mapped, to a bitmap that cannot
 * be written.
 *
 * @example
 * const model = kernel.iommufd(iommufd.fd);
 * const device = model.device({ tracksDirtyPages: true });
 */
export class IommufdModel {
  readonly #objects = new Map<number, Space | Pagetable | Device>();
  #next = 1;

  /** Adds a device, which is not attached yet. */
  device(options: { readonly tracksDirtyPages?: boolean } = {}): IommufdModelDevice {
    const logs = options.tracksDirtyPages !== false;
    const deviceId = this.#add({ kind: 'device', logs });
    return {
      deviceId,
      attach: (id) => {
        const to = this.#objects.get(id);
        if (to === undefined) return -Errno.ENOENT;
        return to.kind === 'hwpt' && to.logs && !logs ? -Errno.EINVAL : 0;
      },
      write: (pagetable, iova, byteLength) => this.#write(pagetable, BigInt(iova), BigInt(byteLength)),
    };
  }

  /** Answers a call to /dev/iommu: the result, or minus errno. */
  ioctl(request: number, argument: bigint): number {
    switch (request) {
      case IommufdRequest.IOMMU_DESTROY:
        return this.#struct(IOMMU_DESTROY, argument, (asked) =>
          this.#objects.delete(asked.get('id')) ? 0 : -Errno.ENOENT,
        );
      case IommufdRequest.IOMMU_IOAS_ALLOC:
        return this.#struct(IOMMU_IOAS_ALLOC, argument, (asked) => {
          asked.set('out_ioas_id', this.#add({ kind: 'ioas', areas: [] }));
          return 0;
        });
      case IommufdRequest.IOMMU_IOAS_IOVA_RANGES:
        return this.#struct(IOMMU_IOAS_IOVA_RANGES, argument, (asked) => {
          if (this.#space(asked.get('ioas_id')) === null) return -Errno.ENOENT;
          asked.set('num_iovas', 1).set('out_iova_alignment', IOMMU_PAGE);
          return -Errno.EMSGSIZE;
        });
      case IommufdRequest.IOMMU_IOAS_MAP:
        return this.#struct(IOMMU_IOAS_MAP, argument, (asked) => this.#map(asked));
      case IommufdRequest.IOMMU_IOAS_UNMAP:
        return this.#struct(IOMMU_IOAS_UNMAP, argument, (asked) => this.#unmap(asked));
      case IommufdRequest.IOMMU_HWPT_ALLOC:
        return this.#struct(IOMMU_HWPT_ALLOC, argument, (asked) => this.#allocate(asked));
      case IommufdRequest.IOMMU_GET_HW_INFO:
        return this.#struct(IOMMU_HW_INFO, argument, (asked) => {
          const device = this.#objects.get(asked.get('dev_id'));
          if (device?.kind !== 'device') return -Errno.ENOENT;
          asked.set('out_capabilities', device.logs ? IommufdFlag.IOMMU_HW_CAP_DIRTY_TRACKING : 0);
          return 0;
        });
      case IommufdRequest.IOMMU_HWPT_SET_DIRTY_TRACKING:
        return this.#struct(IOMMU_HWPT_SET_DIRTY_TRACKING, argument, (asked) => this.#setTracking(asked));
      case IommufdRequest.IOMMU_HWPT_GET_DIRTY_BITMAP:
        return this.#struct(IOMMU_HWPT_GET_DIRTY_BITMAP, argument, (asked) => this.#getDirty(asked));
      default:
        return -Errno.ENOTTY;
    }
  }

  /** iommufd_fops_ioctl: checks the size, and for zeroes after a struct that is larger than this kernel's. */
  #struct<Field extends string>(
    layout: StructLayout<Field>,
    argument: bigint,
    call: (asked: StructBuffer<Field>) => number,
  ): number {
    const head = copyFromUser(argument, 4);
    if (head === null) return -Errno.EFAULT;
    const size = new DataView(head.buffer).getUint32(0, true);
    if (size < layout.size) return -Errno.EINVAL;
    const bytes = copyFromUser(argument, size);
    if (bytes === null) return -Errno.EFAULT;
    if (bytes.subarray(layout.size).some((byte) => byte !== 0)) return -Errno.E2BIG;
    const asked = new StructBuffer(layout, bytes);
    const result = call(asked);
    if (result < 0 && result !== -Errno.EMSGSIZE) return result;
    return copyToUser(argument, bytes.subarray(0, layout.size)) ? result : -Errno.EFAULT;
  }

  #map(asked: StructBuffer<keyof typeof IOMMU_IOAS_MAP.fields>): number {
    const space = this.#space(asked.get('ioas_id'));
    const [iova, length, address] = [asked.getBigInt('iova'), asked.getBigInt('length'), asked.getBigInt('user_va')];
    if ((asked.get('flags') & ~7) !== 0) return -Errno.EOPNOTSUPP;
    if (iova >= ALL || length >= ALL) return -Errno.EOVERFLOW;
    if (space === null) return -Errno.ENOENT;
    if (length === 0n || iova % IOMMU_PAGE !== 0n || length % IOMMU_PAGE !== 0n) return -Errno.EINVAL;
    if (iova < APERTURE.start || iova + length - 1n > APERTURE.last) return -Errno.EINVAL;
    if (space.areas.some((area) => iova < area.end && area.iova < iova + length)) return -Errno.EEXIST;
    if (copyFromUser(address, 1) === null || copyFromUser(address + length - 1n, 1) === null) return -Errno.EFAULT;
    space.areas.push({ iova, end: iova + length });
    return 0;
  }

  /** Unmaps whole areas only, and sets `length` to the number of bytes. */
  #unmap(asked: StructBuffer<keyof typeof IOMMU_IOAS_UNMAP.fields>): number {
    const space = this.#space(asked.get('ioas_id'));
    if (space === null) return -Errno.ENOENT;
    const [iova, length] = [asked.getBigInt('iova'), asked.getBigInt('length')];
    if (length === 0n) return -Errno.EINVAL;
    const end = iova + length;
    const inside = space.areas.filter((area) => iova < area.end && area.iova < end);
    if (inside.some((area) => area.iova < iova || area.end > end)) return -Errno.ENOENT;
    if (inside.length === 0) return -Errno.ENOENT;
    let bytes = 0n;
    for (const area of inside) {
      space.areas.splice(space.areas.indexOf(area), 1);
      bytes += area.end - area.iova;
      // The dirty bits of the removed entries of the page table are lost.
      for (const object of this.#objects.values()) {
        if (object.kind !== 'hwpt' || object.space !== space) continue;
        for (const page of [...object.dirty]) {
          if (page * IOMMU_PAGE >= area.iova && page * IOMMU_PAGE < area.end) object.dirty.delete(page);
        }
      }
    }
    asked.set('length', bytes);
    return 0;
  }

  #allocate(asked: StructBuffer<keyof typeof IOMMU_HWPT_ALLOC.fields>): number {
    const flags = asked.get('flags');
    if ((flags & ~(1 | IommufdFlag.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)) !== 0) return -Errno.EOPNOTSUPP;
    const device = this.#objects.get(asked.get('dev_id'));
    const space = this.#space(asked.get('pt_id'));
    if (device?.kind !== 'device' || space === null) return -Errno.ENOENT;
    const logs = (flags & IommufdFlag.IOMMU_HWPT_ALLOC_DIRTY_TRACKING) !== 0;
    if (logs && !device.logs) return -Errno.EOPNOTSUPP;
    asked.set('out_hwpt_id', this.#add({ kind: 'hwpt', space, logs, tracking: false, dirty: new Set() }));
    return 0;
  }

  #setTracking(asked: StructBuffer<keyof typeof IOMMU_HWPT_SET_DIRTY_TRACKING.fields>): number {
    const flags = asked.get('flags');
    if ((flags & ~IommufdFlag.IOMMU_HWPT_DIRTY_TRACKING_ENABLE) !== 0) return -Errno.EOPNOTSUPP;
    const table = this.#objects.get(asked.get('hwpt_id'));
    if (table?.kind !== 'hwpt') return -Errno.ENOENT;
    if (!table.logs) return -Errno.EOPNOTSUPP;
    table.tracking = flags !== 0;
    table.dirty.clear();
    return 0;
  }

  #getDirty(asked: StructBuffer<keyof typeof IOMMU_HWPT_GET_DIRTY_BITMAP.fields>): number {
    const flags = asked.get('flags');
    const keep = flags === IommufdFlag.IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR;
    if ((flags & ~IommufdFlag.IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR) !== 0) return -Errno.EOPNOTSUPP;
    const table = this.#objects.get(asked.get('hwpt_id'));
    if (table?.kind !== 'hwpt') return -Errno.ENOENT;
    if (!table.logs) return -Errno.EOPNOTSUPP;
    const [iova, length, pageSize] = [asked.getBigInt('iova'), asked.getBigInt('length'), asked.getBigInt('page_size')];
    if (length === 0n) return -Errno.EINVAL;
    if (iova + length - 1n >= TWO_64) return -Errno.EOVERFLOW;
    if (iova % IOMMU_PAGE !== 0n || length % IOMMU_PAGE !== 0n || pageSize === 0n) return -Errno.EINVAL;
    // The checks use masks, as the kernel's IS_ALIGNED does, so that a page size that is no power of two may pass.
    if ((iova & (pageSize - 1n)) !== 0n || (length & (pageSize - 1n)) !== 0n) return -Errno.EINVAL;
    if (!table.tracking) return 0;
    for (const page of [...table.dirty]) {
      const address = page * IOMMU_PAGE;
      if (address < iova || address >= iova + length) continue;
      const bit = (address - iova) / pageSize;
      const at = asked.getBigInt('data') + bit / 8n;
      const byte = copyFromUser(at, 1);
      if (byte !== null) {
        byte[0] = (byte[0] as number) | (1 << Number(bit % 8n));
        copyToUser(at, byte);
      }
      if (!keep) table.dirty.delete(page);
    }
    return 0;
  }

  #write(pagetable: number, iova: bigint, byteLength: bigint): number {
    const table = this.#objects.get(pagetable);
    if (table?.kind !== 'hwpt') return -Errno.ENOENT;
    if (!table.tracking) return -Errno.EINVAL;
    let written = 0;
    for (let page = iova / IOMMU_PAGE; page * IOMMU_PAGE < iova + byteLength; page++) {
      const address = page * IOMMU_PAGE;
      if (!table.space.areas.some((area) => area.iova <= address && address < area.end)) continue;
      table.dirty.add(page);
      written++;
    }
    return written;
  }

  #space(id: number): Space | null {
    const object = this.#objects.get(id);
    return object?.kind === 'ioas' ? object : null;
  }

  #add(object: Space | Pagetable | Device): number {
    const id = this.#next++;
    this.#objects.set(id, object);
    return id;
  }
}
