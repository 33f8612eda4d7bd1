import { addressOf, errnoName, type IoctlArgument } from '@godwit/linux/unstable';
import type { KernelPort } from '@godwit/vfio';
import { Type1 } from '@godwit/vfio/unstable';

/*
 * Arguments of VFIO's calls, valid and invalid, built from plain integers. With them the conformance tables check the
 * kernel's behaviour, and the layouts that @godwit/vfio uses.
 */

/** An open file, and the kernel, or model of a kernel, that it belongs to. */
export interface Descriptor {
  readonly port: Pick<KernelPort, 'ioctl'>;
  readonly fd: number;
}

/** The call's result, or minus errno. */
export function call({ port, fd }: Descriptor, request: number, argument: IoctlArgument = 0): number {
  return port.ioctl(fd, request, argument);
}

/** Flags of VFIO_IOMMU_DIRTY_PAGES. */
export const DirtyPages = {
  START: Type1.VFIO_IOMMU_DIRTY_PAGES_FLAG_START,
  STOP: Type1.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP,
  GET_BITMAP: Type1.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
} as const;

/** VFIO_IOMMU_DIRTY_PAGES takes no bitmap larger than this: DIRTY_BITMAP_SIZE_MAX in vfio_iommu_type1.c. */
export const MAXIMUM_BITMAP_BYTES = 2 ** 28;

/** Text with the NUL that ends it in C. */
export function cString(text: string): Uint8Array {
  return new TextEncoder().encode(`${text}\0`);
}

/** The result of a call that must not fail in this test. */
export function succeeds(what: string, result: number): number {
  if (result < 0) throw new Error(`${what} failed with ${errnoName(-result)}`);
  return result;
}

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

/** A struct of VFIO_IOMMU_DIRTY_PAGES with GET_BITMAP, whose values are right unless they are given here. */
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
export function dirtyPages(container: Descriptor, flags: number, argsz = 8): number {
  return call(container, Type1.VFIO_IOMMU_DIRTY_PAGES, u32(argsz, flags));
}

/** struct vfio_iommu_type1_dma_map, 32 bytes. */
export interface MapDma {
  readonly argsz?: number;
  readonly flags?: number;
  readonly vaddr: number | bigint;
  readonly iova: number | bigint;
  readonly size: number | bigint;
}

export function mapDma(container: Descriptor, { argsz = 32, flags = 3, vaddr, iova, size }: MapDma): number {
  return call(container, Type1.VFIO_IOMMU_MAP_DMA, packed(u32(argsz, flags), u64(vaddr, iova, size)));
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
export function unmapDma(container: Descriptor, unmap: UnmapDma): { readonly result: number; readonly size: number } {
  const { bitmap } = unmap;
  const argument = packed(
    u32(unmap.argsz ?? (bitmap === undefined ? 24 : 48), unmap.flags ?? (bitmap === undefined ? 0 : 1)),
    u64(unmap.iova, unmap.size),
    bitmap === undefined ? u64() : u64(bitmap.pgsize, bitmap.size, bitmap.data),
  );
  const result = call(container, Type1.VFIO_IOMMU_UNMAP_DMA, argument);
  return { result, size: Number(new DataView(argument.buffer).getBigUint64(16, true)) };
}
