import { Errno, StructBuffer } from '@godwit/linux/unstable';
import {
  Type1,
  VFIO_BITMAP,
  VFIO_CAP_DMA_AVAIL,
  VFIO_CAP_IOVA_RANGE,
  VFIO_CAP_MIGRATION,
  VFIO_DIRTY_BITMAP,
  VFIO_DIRTY_BITMAP_GET,
  VFIO_DMA_MAP,
  VFIO_DMA_UNMAP,
  VFIO_IOMMU_TYPE1_INFO,
  VFIO_IOVA_RANGE,
} from '../layouts/type1.js';
import { VFIO_INFO_CAP_HEADER } from '../layouts/vfio-setup.js';
import { copyFromUser, copyToUser } from './user-memory.js';

const TWO_64 = 1n << 64n;
const ALL_FLAGS = 7;
/** DIRTY_BITMAP_SIZE_MAX */
const MAXIMUM_BITMAP_BYTES = 2 ** 28;
/** DIRTY_BITMAP_PAGES_MAX: more pages than this in a mapping cannot be tracked. */
const MAXIMUM_TRACKED_PAGES = 2 ** 31 - 1;
/** The end of the addresses that access_ok accepts: TASK_SIZE_MAX of x86-64. */
const USER_END = 1n << 47n;

/** The settings of a `Type1Model`. */
export interface Type1ModelOptions {
  /** Bytes; default 4096. */
  readonly pageSize?: number;
  /**
   * Whether a device is behind an IOMMU: then addresses are restricted, mapped memory must exist, and every mapped page is
   * always dirty. Default false: mediated devices only.
   */
  readonly iommu?: boolean;
  /** Default 65,535, the kernel's `dma_entry_limit`. */
  readonly mappingsAvailable?: number;
  /**
   * Whether the container has the migration capability; iommufd's container and kernels before 5.8 do not. Default true.
   */
  readonly tracking?: boolean;
  /** Whether the IOMMU is VFIO_TYPE1_IOMMU, which cannot track; default false: VFIO_TYPE1v2_IOMMU. */
  readonly versionOne?: boolean;
}

interface ModelMapping {
  readonly iova: bigint;
  readonly size: bigint;
  readonly pages: number;
  /** The numbers of the dirty pages. */
  readonly dirty: Set<number>;
  /** The number of pins of each pinned page. */
  readonly pins: Map<number, number>;
}

/** The ranges that QEMU's intel-iommu leaves to devices: all but the window of MSI. */
const IOVA_RANGES = [
  [0n, 0xfedfffffn],
  [0xfef00000n, (1n << 48n) - 1n],
] as const;

/**
 * A model of vfio_iommu_type1 of Linux 6.12 for a container: its checks in their order, its errnos, and the dirty pages at
 * each time. The conformance tests make the same calls to the kernel and to this model.
 *
 * Not modelled: the false dirty bits that 6.12 leaves behind when one GET_BITMAP covers several mappings that are not
 * aligned to 64 pages.
 *
 * @example
 * const model = kernel.type1(container.fd);
 * model.deviceWrite(0x1000, 4096);
 */
export class Type1Model {
  readonly pageSize: number;
  readonly #iommu: boolean;
  readonly #tracking: boolean;
  readonly #limit: number;
  readonly #versionOne: boolean;
  #mappings: ModelMapping[] = [];
  #started = false;

  constructor(options: Type1ModelOptions = {}) {
    this.pageSize = options.pageSize ?? 4096;
    this.#iommu = options.iommu ?? false;
    this.#tracking = options.tracking ?? true;
    this.#limit = options.mappingsAvailable ?? 65_535;
    this.#versionOne = options.versionOne ?? false;
  }

  /**
   * Writes memory as a device through the container's mappings, as `vfio_dma_rw` does. Returns EINVAL where nothing is
   * mapped.
   */
  deviceWrite(iova: number, byteLength: number): number {
    return this.#pages(iova, byteLength, (mapping, page) => {
      if (this.#started) mapping.dirty.add(page);
    });
  }

  /** Pins pages as a driver: they are dirty from now on, at every harvest. */
  pin(iova: number, byteLength: number): number {
    return this.#pages(iova, byteLength, (mapping, page) => {
      mapping.pins.set(page, (mapping.pins.get(page) ?? 0) + 1);
      if (this.#started) mapping.dirty.add(page);
    });
  }

  /** Ends the pinning of pages by a driver: the result, or minus errno. */
  unpin(iova: number, byteLength: number): number {
    return this.#pages(iova, byteLength, (mapping, page) => {
      const left = (mapping.pins.get(page) ?? 0) - 1;
      if (left > 0) mapping.pins.set(page, left);
      else mapping.pins.delete(page);
    });
  }

  /** Answers a call to the container: the result, or minus errno. */
  ioctl(request: number, argument: bigint): number {
    switch (request) {
      case Type1.VFIO_IOMMU_GET_INFO:
        return this.#info(argument);
      case Type1.VFIO_IOMMU_MAP_DMA:
        return this.#map(argument);
      case Type1.VFIO_IOMMU_UNMAP_DMA:
        return this.#unmap(argument);
      case Type1.VFIO_IOMMU_DIRTY_PAGES:
        return this.#dirtyPages(argument);
      default:
        return -Errno.ENOTTY;
    }
  }

  #info(argument: bigint): number {
    const head = copyFromUser(argument, 16);
    if (head === null) return -Errno.EFAULT;
    const given = new DataView(head.buffer).getUint32(0, true);
    if (given < 16) return -Errno.EINVAL;
    const caps = this.#capabilities();
    const needed = VFIO_IOMMU_TYPE1_INFO.size + caps.byteLength;
    const info = new StructBuffer(VFIO_IOMMU_TYPE1_INFO, caps.byteLength)
      .set('argsz', caps.byteLength === 0 ? given : needed)
      .set('flags', Type1.VFIO_IOMMU_INFO_PGSIZES | (caps.byteLength > 0 ? Type1.VFIO_IOMMU_INFO_CAPS : 0))
      .set('iova_pgsizes', this.#iommu ? BigInt(this.pageSize) | 0x40200000n : -BigInt(this.pageSize));
    if (caps.byteLength === 0 || given < needed) {
      return copyToUser(argument, info.bytes.subarray(0, Math.min(given, VFIO_IOMMU_TYPE1_INFO.size)))
        ? 0
        : -Errno.EFAULT;
    }
    info.set('cap_offset', VFIO_IOMMU_TYPE1_INFO.size).set('argsz', given);
    info.bytes.set(caps, VFIO_IOMMU_TYPE1_INFO.size);
    return copyToUser(argument, info.bytes) ? 0 : -Errno.EFAULT;
  }

  /** The capability chain in the kernel's order: 2, 3, 1. */
  #capabilities(): Uint8Array {
    const parts: { readonly id: number; readonly bytes: Uint8Array }[] = [];
    if (this.#tracking) {
      const { bytes } = new StructBuffer(VFIO_CAP_MIGRATION)
        .set('pgsize_bitmap', this.pageSize)
        .set('max_dirty_bitmap_size', MAXIMUM_BITMAP_BYTES);
      parts.push({ id: Type1.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, bytes });
      const available = new StructBuffer(VFIO_CAP_DMA_AVAIL, 4).set('avail', this.#limit - this.#mappings.length);
      parts.push({ id: Type1.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, bytes: available.bytes });
    }
    if (this.#iommu) {
      const ranges = new StructBuffer(VFIO_CAP_IOVA_RANGE, IOVA_RANGES.length * VFIO_IOVA_RANGE.size);
      ranges.set('nr_iovas', IOVA_RANGES.length);
      for (const [i, [start, end]] of IOVA_RANGES.entries()) {
        const at = VFIO_CAP_IOVA_RANGE.size + i * VFIO_IOVA_RANGE.size;
        new StructBuffer(VFIO_IOVA_RANGE, ranges.bytes.subarray(at)).set('start', start).set('end', end);
      }
      parts.push({ id: Type1.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, bytes: ranges.bytes });
    }
    const chain = new Uint8Array(parts.reduce((sum, { bytes }) => sum + bytes.byteLength, 0));
    let at = 0;
    for (const [i, { id, bytes }] of parts.entries()) {
      const next = at + bytes.byteLength;
      chain.set(bytes, at);
      new StructBuffer(VFIO_INFO_CAP_HEADER, chain.subarray(at))
        .set('id', id)
        .set('version', 1)
        .set('next', i + 1 < parts.length ? VFIO_IOMMU_TYPE1_INFO.size + next : 0);
      at = next;
    }
    return chain;
  }

  #map(argument: bigint): number {
    const bytes = copyFromUser(argument, VFIO_DMA_MAP.size);
    if (bytes === null) return -Errno.EFAULT;
    const map = new StructBuffer(VFIO_DMA_MAP, bytes);
    const flags = map.get('flags');
    if (map.get('argsz') < VFIO_DMA_MAP.size || (flags & ~ALL_FLAGS) !== 0) return -Errno.EINVAL;
    const [iova, size, address] = [map.getBigInt('iova'), map.getBigInt('size'), map.getBigInt('vaddr')];
    const access = (flags & (Type1.VFIO_DMA_MAP_FLAG_READ | Type1.VFIO_DMA_MAP_FLAG_WRITE)) !== 0;
    const newAddress = (flags & 4) !== 0;
    if (newAddress === access) return -Errno.EINVAL;
    const mask = BigInt(this.pageSize - 1);
    if (size === 0n || ((size | iova | address) & mask) !== 0n) return -Errno.EINVAL;
    if (iova + size > TWO_64 || address + size > TWO_64) return -Errno.EINVAL;
    const overlaps = this.#mappings.some((other) => iova < other.iova + other.size && other.iova < iova + size);
    if (newAddress) return overlaps ? -Errno.EINVAL : -Errno.ENOENT;
    if (overlaps) return -Errno.EEXIST;
    if (this.#mappings.length >= this.#limit) return -Errno.ENOSPC;
    if (this.#iommu) {
      if (!IOVA_RANGES.some(([start, last]) => start <= iova && iova + size - 1n <= last)) return -Errno.EINVAL;
      if (copyFromUser(address, 1) === null || copyFromUser(address + size - 1n, 1) === null) return -Errno.EFAULT;
    }
    const pages = Number(size / BigInt(this.pageSize));
    this.#mappings.push({ iova, size, pages, dirty: new Set(), pins: new Map() });
    this.#mappings.sort((a, b) => (a.iova < b.iova ? -1 : 1));
    return 0;
  }

  #unmap(argument: bigint): number {
    const bytes = copyFromUser(argument, VFIO_DMA_UNMAP.size);
    if (bytes === null) return -Errno.EFAULT;
    const unmap = new StructBuffer(VFIO_DMA_UNMAP, bytes);
    const flags = unmap.get('flags');
    if (unmap.get('argsz') < VFIO_DMA_UNMAP.size || (flags & ~ALL_FLAGS) !== 0) return -Errno.EINVAL;
    const wantsBitmap = (flags & Type1.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP) !== 0;
    if (wantsBitmap && flags !== Type1.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP) return -Errno.EINVAL;
    const [iova, size] = [unmap.getBigInt('iova'), unmap.getBigInt('size')];
    let bitmap: StructBuffer<keyof typeof VFIO_BITMAP.fields> | null = null;
    if (wantsBitmap) {
      if (unmap.get('argsz') < VFIO_DMA_UNMAP.size + VFIO_BITMAP.size) return -Errno.EINVAL;
      const given = copyFromUser(argument + BigInt(VFIO_DMA_UNMAP.size), VFIO_BITMAP.size);
      if (given === null) return -Errno.EFAULT;
      bitmap = new StructBuffer(VFIO_BITMAP, given);
      if (bitmap.getBigInt('data') + bitmap.getBigInt('size') > USER_END) return -Errno.EINVAL;
      const refusal = this.#refusesBitmap(size, bitmap.getBigInt('pgsize'), bitmap.getBigInt('size'));
      if (refusal !== 0) return refusal;
      if (!this.#started) return -Errno.EINVAL;
    }
    // The driver of a mediated device could still write through the old address.
    if ((flags & 4) !== 0 && !this.#iommu) return -Errno.EBUSY;
    const all = (flags & 2) !== 0;
    const mask = BigInt(this.pageSize - 1);
    if ((iova & mask) !== 0n) return -Errno.EINVAL;
    if (all ? iova !== 0n || size !== 0n : size === 0n || (size & mask) !== 0n || iova + size > TWO_64) {
      return -Errno.EINVAL;
    }
    const end = all ? TWO_64 : iova + size;
    if (this.#bisects(iova, end)) return -Errno.EINVAL;
    let unmapped = 0n;
    for (const mapping of [...this.#mappings]) {
      if (mapping.iova < iova || mapping.iova >= end) continue;
      if (bitmap !== null && !this.#copyOut(mapping, iova, bitmap.getBigInt('data'))) return -Errno.EFAULT;
      this.#mappings = this.#mappings.filter((other) => other !== mapping);
      unmapped += mapping.size;
    }
    unmap.set('size', unmapped);
    return copyToUser(argument, unmap.bytes) ? 0 : -Errno.EFAULT;
  }

  #dirtyPages(argument: bigint): number {
    if (this.#versionOne) return -Errno.EACCES;
    const bytes = copyFromUser(argument, VFIO_DIRTY_BITMAP.size);
    if (bytes === null) return -Errno.EFAULT;
    const head = new StructBuffer(VFIO_DIRTY_BITMAP, bytes);
    const [argsz, flags] = [head.get('argsz'), head.get('flags')];
    if (argsz < VFIO_DIRTY_BITMAP.size || (flags & ~ALL_FLAGS) !== 0) return -Errno.EINVAL;
    if (flags === Type1.VFIO_IOMMU_DIRTY_PAGES_FLAG_START) {
      if (this.#started) return 0;
      if (this.#mappings.some(({ pages }) => pages > MAXIMUM_TRACKED_PAGES)) return -Errno.EINVAL;
      for (const mapping of this.#mappings) clearAllButPinned(mapping);
      this.#started = true;
      return 0;
    }
    if (flags === Type1.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP) {
      this.#started = false;
      return 0;
    }
    if (flags !== Type1.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP) return -Errno.EINVAL;
    if (argsz < VFIO_DIRTY_BITMAP.size + VFIO_DIRTY_BITMAP_GET.size) return -Errno.EINVAL;
    const rest = copyFromUser(argument + BigInt(VFIO_DIRTY_BITMAP.size), VFIO_DIRTY_BITMAP_GET.size);
    return rest === null ? -Errno.EFAULT : this.#get(new StructBuffer(VFIO_DIRTY_BITMAP_GET, rest));
  }

  #get(get: StructBuffer<keyof typeof VFIO_DIRTY_BITMAP_GET.fields>): number {
    const [iova, size, data] = [get.getBigInt('iova'), get.getBigInt('size'), get.getBigInt('bitmap.data')];
    const [pgsize, bitmapSize] = [get.getBigInt('bitmap.pgsize'), get.getBigInt('bitmap.size')];
    // iova + size wraps, also at exactly 2^64; then access_ok of the bitmap.
    if (iova + size >= TWO_64 || data + bitmapSize > USER_END) return -Errno.EINVAL;
    const refusal = this.#refusesBitmap(size, pgsize, bitmapSize);
    if (refusal !== 0) return refusal;
    const mask = BigInt(this.pageSize - 1);
    if ((iova & mask) !== 0n || size === 0n || (size & mask) !== 0n || !this.#started) return -Errno.EINVAL;
    const end = iova + size;
    if (this.#bisects(iova, end)) return -Errno.EINVAL;
    for (const mapping of this.#mappings) {
      if (mapping.iova < iova || mapping.iova >= end) continue;
      if (!this.#copyOut(mapping, iova, data)) return -Errno.EFAULT;
      clearAllButPinned(mapping);
    }
    return 0;
  }

  #refusesBitmap(size: bigint, pgsize: bigint, bitmapSize: bigint): number {
    const shift = pgsize === 0n ? 64 : (pgsize & -pgsize).toString(2).length - 1;
    const pages = size >> BigInt(shift);
    const needed = ((pages + 63n) / 64n) * 8n;
    if (pages === 0n || bitmapSize === 0n || bitmapSize > MAXIMUM_BITMAP_BYTES || bitmapSize < needed) {
      return -Errno.EINVAL;
    }
    return pgsize === BigInt(this.pageSize) ? 0 : -Errno.EINVAL;
  }

  /** Whether a mapping contains the range's first byte but begins before it, or its last but ends after it. */
  #bisects(iova: bigint, end: bigint): boolean {
    return this.#mappings.some(
      (mapping) =>
        (mapping.iova < iova && iova < mapping.iova + mapping.size) ||
        (mapping.iova < end && end < mapping.iova + mapping.size),
    );
  }

  /** Overwrites whole bytes of the user's bitmap, except for a shared first word, which is read back and ORed. */
  #copyOut(mapping: ModelMapping, base: bigint, data: bigint): boolean {
    const first = Number((mapping.iova - base) / BigInt(this.pageSize));
    const shift = first % 64;
    const at = data + BigInt(Math.floor(first / 64) * 8);
    const bytes = new Uint8Array(Math.ceil((mapping.pages + shift) / 64) * 8);
    if (shift !== 0) {
      const before = copyFromUser(at, 8);
      if (before === null) return false;
      bytes.set(before);
    }
    for (const page of this.#iommu ? Array(mapping.pages).keys() : mapping.dirty) {
      const bit = page + shift;
      bytes[bit >> 3] = (bytes[bit >> 3] as number) | (1 << (bit & 7));
    }
    return copyToUser(at, bytes);
  }

  #pages(iova: number, byteLength: number, each: (mapping: ModelMapping, page: number) => void): number {
    const last = Math.floor((iova + byteLength - 1) / this.pageSize);
    for (let page = Math.floor(iova / this.pageSize); page <= last; page++) {
      const address = BigInt(page * this.pageSize);
      const mapping = this.#mappings.find((one) => one.iova <= address && address < one.iova + one.size);
      if (mapping === undefined) return -Errno.EINVAL;
      each(mapping, Number((address - mapping.iova) / BigInt(this.pageSize)));
    }
    return 0;
  }
}

function clearAllButPinned({ dirty, pins }: ModelMapping): void {
  dirty.clear();
  for (const page of pins.keys()) dirty.add(page);
}
