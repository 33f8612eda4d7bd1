import { addressOf, tryIoctl } from '@godwit/linux';

/**
 * VFIO's requests as linux/vfio.h numbers them, `_IO(';', 100 + n)`. The conformance tables build every argument from
 * plain integers, wrong ones too, so that they also check the layouts that @godwit/vfio works with.
 */
export const VfioRequest = {
  GET_API_VERSION: 0x3b64,
  CHECK_EXTENSION: 0x3b65,
  SET_IOMMU: 0x3b66,
  GROUP_GET_STATUS: 0x3b67,
  GROUP_SET_CONTAINER: 0x3b68,
  GROUP_UNSET_CONTAINER: 0x3b69,
  GROUP_GET_DEVICE_FD: 0x3b6a,
  DEVICE_GET_INFO: 0x3b6b,
  DEVICE_GET_REGION_INFO: 0x3b6c,
  DEVICE_RESET: 0x3b6f,
  IOMMU_GET_INFO: 0x3b70,
  IOMMU_MAP_DMA: 0x3b71,
  IOMMU_UNMAP_DMA: 0x3b72,
  IOMMU_DIRTY_PAGES: 0x3b75,
  DEVICE_FEATURE: 0x3b75,
} as const;

/** Argument of VFIO_SET_IOMMU. */
export const IommuType = { TYPE1: 1, TYPE1v2: 3 } as const;

/** Flags of VFIO_IOMMU_DIRTY_PAGES. */
export const DirtyPages = { START: 1, STOP: 2, GET_BITMAP: 4 } as const;

/** VFIO_IOMMU_DIRTY_PAGES takes no bitmap larger than this: DIRTY_BITMAP_SIZE_MAX in vfio_iommu_type1.c. */
export const MAXIMUM_BITMAP_BYTES = 2 ** 28;

/** 32-bit integers as the kernel reads them. */
export function u32(...values: readonly number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(values, (value) => value >>> 0).buffer);
}

/** 64-bit integers as the kernel reads them; negative ones in two's complement. */
export function u64(...values: readonly (number | bigint)[]): Uint8Array {
  return new Uint8Array(BigUint64Array.from(values, (value) => BigInt.asUintN(64, BigInt(value))).buffer);
}

/** One argument from its parts. */
export function packed(...parts: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}

const inUse: { buffer?: Uint8Array } = {};

/** Calls with the buffer's address, and keeps the buffer from being collected until the call is over. */
export function withAddress<T>(buffer: Uint8Array, call: (address: bigint) => T): T {
  const result = call(addressOf(buffer));
  inUse.buffer = buffer;
  return result;
}

/** A struct of VFIO_IOMMU_DIRTY_PAGES with GET_BITMAP, with values that are right unless said otherwise. */
export interface GetBitmap {
  readonly argsz?: number;
  readonly flags?: number;
  readonly iova?: number | bigint;
  readonly size?: number | bigint;
  readonly pgsize?: number | bigint;
  /** In bytes. */
  readonly bitmapSize?: number | bigint;
  /** Address. */
  readonly data?: bigint;
}

/** struct vfio_iommu_type1_dirty_bitmap and struct vfio_iommu_type1_dirty_bitmap_get: 48 bytes. */
export function getBitmapArgument(get: GetBitmap): Uint8Array {
  const { argsz = 48, flags = DirtyPages.GET_BITMAP, iova = 0, size = 0, pgsize = 4096, bitmapSize = 8 } = get;
  return packed(u32(argsz, flags), u64(iova, size, pgsize, bitmapSize, get.data ?? 0n));
}

/** VFIO_IOMMU_DIRTY_PAGES with these flags and nothing behind them. 0, or minus errno. */
export function dirtyPages(container: number, flags: number, argsz = 8): number {
  return tryIoctl(container, VfioRequest.IOMMU_DIRTY_PAGES, u32(argsz, flags));
}

/** struct vfio_iommu_type1_dma_map, 32 bytes. */
export interface MapDma {
  readonly argsz?: number;
  readonly flags?: number;
  readonly vaddr: number | bigint;
  readonly iova: number | bigint;
  readonly size: number | bigint;
}

export function mapDma(container: number, { argsz = 32, flags = 3, vaddr, iova, size }: MapDma): number {
  return tryIoctl(container, VfioRequest.IOMMU_MAP_DMA, packed(u32(argsz, flags), u64(vaddr, iova, size)));
}

/** struct vfio_iommu_type1_dma_unmap, 24 bytes, and struct vfio_bitmap behind it when `bitmap` is given. */
export interface UnmapDma {
  readonly argsz?: number;
  readonly flags?: number;
  readonly iova: number | bigint;
  readonly size: number | bigint;
  readonly bitmap?: { readonly pgsize: number; readonly size: number; readonly data: bigint };
}

/** VFIO_IOMMU_UNMAP_DMA: the result, and the `size` that the kernel wrote back. */
export function unmapDma(container: number, unmap: UnmapDma): { readonly result: number; readonly size: number } {
  const { bitmap } = unmap;
  const argument = packed(
    u32(unmap.argsz ?? (bitmap === undefined ? 24 : 48), unmap.flags ?? (bitmap === undefined ? 0 : 1)),
    u64(unmap.iova, unmap.size),
    bitmap === undefined ? u64() : u64(bitmap.pgsize, bitmap.size, bitmap.data),
  );
  const result = tryIoctl(container, VfioRequest.IOMMU_UNMAP_DMA, argument);
  return { result, size: Number(new DataView(argument.buffer).getBigUint64(16, true)) };
}
