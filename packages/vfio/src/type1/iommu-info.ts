import { GodwitError } from '@godwit/core';
import { StructBuffer, uninterrupted } from '@godwit/linux/unstable';
import type { KernelPort } from '../kernel-port.js';
import {
  Type1,
  VFIO_CAP_DMA_AVAIL,
  VFIO_CAP_IOVA_RANGE,
  VFIO_CAP_MIGRATION,
  VFIO_IOMMU_TYPE1_INFO,
  VFIO_IOVA_RANGE,
} from '../layouts/type1.js';
import { succeeded } from '../syscall-result.js';
import { broken, type Capability, capabilityChain, capabilityOf } from './capability-chain.js';

/** Addresses that devices may use; `last` is inclusive, and may be 2^64 - 1. */
export interface IovaRange {
  readonly start: bigint;
  readonly last: bigint;
}

/** The support of a container for dirty tracking. */
export interface DirtyTrackingSupport {
  /** Bytes per bit of the bitmap: the smallest page size, the only one that the kernel accepts. */
  readonly pageSize: number;
  /** The most bytes of bitmap that one call accepts (256 MiB in Linux 6.12). */
  readonly maximumBitmapBytes: number;
}

/** The result of VFIO_IOMMU_GET_INFO. */
export interface Type1Info {
  /** Page sizes that can be mapped, one bit each. */
  readonly pageSizes: bigint;
  /** Bytes; every address and size of a mapping is a multiple of it. */
  readonly smallestPageSize: number;
  /** null when no device restricts them (mediated devices only, or a kernel before 5.4). */
  readonly iovaRanges: readonly IovaRange[] | null;
  /** null when this container cannot track: a kernel before 5.8, or a container that iommufd emulates. */
  readonly dirtyTracking: DirtyTrackingSupport | null;
  /** Mappings that may still be made; null when the kernel (before 5.10) does not report it. */
  readonly mappingsAvailable: number | null;
}

/** The most bytes of information that are accepted from a kernel; 6.12 with an IOMMU needs about 150 bytes. */
const MOST_INFO_BYTES = 2 ** 20;

/**
 * Asks the kernel, with a buffer as large as it requires.
 *
 * @example
 * const info = readType1Info(linuxKernel, container.fd);
 */
export function readType1Info(port: KernelPort, container: number): Type1Info {
  let size = VFIO_IOMMU_TYPE1_INFO.size;
  for (;;) {
    // Never less than the whole fixed part: with a smaller argsz the kernel leaves cap_offset as it was.
    const info = new StructBuffer(VFIO_IOMMU_TYPE1_INFO, size - VFIO_IOMMU_TYPE1_INFO.size).set('argsz', size);
    const result = uninterrupted(() => port.ioctl(container, Type1.VFIO_IOMMU_GET_INFO, info.bytes));
    succeeded(result, 'VFIO_IOMMU_GET_INFO', `on container ${container}`);
    const needed = info.get('argsz');
    if (needed <= size) return parseType1Info(info.bytes);
    if (needed > MOST_INFO_BYTES) throw broken(`it is said to need ${needed} bytes`);
    size = needed;
  }
}

/** Reads an info buffer that the kernel has filled. Exported for tests. */
export function parseType1Info(bytes: Uint8Array): Type1Info {
  const info = new StructBuffer(VFIO_IOMMU_TYPE1_INFO, bytes);
  const flags = info.get('flags');
  const pageSizes = (flags & Type1.VFIO_IOMMU_INFO_PGSIZES) === 0 ? 0n : info.getBigInt('iova_pgsizes');
  const hasChain = (flags & Type1.VFIO_IOMMU_INFO_CAPS) !== 0;
  const chain = hasChain ? capabilityChain(bytes, info.get('cap_offset'), VFIO_IOMMU_TYPE1_INFO.size) : [];
  const available = capabilityOf(chain, Type1.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, VFIO_CAP_DMA_AVAIL.size);
  return {
    pageSizes,
    smallestPageSize: smallestPage(pageSizes),
    iovaRanges: iovaRanges(capabilityOf(chain, Type1.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, VFIO_CAP_IOVA_RANGE.size)),
    dirtyTracking: dirtyTracking(
      capabilityOf(chain, Type1.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, VFIO_CAP_MIGRATION.size),
    ),
    mappingsAvailable: available === null ? null : new StructBuffer(VFIO_CAP_DMA_AVAIL, available.bytes).get('avail'),
  };
}

function iovaRanges(capability: Capability | null): readonly IovaRange[] | null {
  if (capability === null) return null;
  const count = new StructBuffer(VFIO_CAP_IOVA_RANGE, capability.bytes).get('nr_iovas');
  const bytes = capability.bytes.subarray(VFIO_CAP_IOVA_RANGE.size);
  if (count * VFIO_IOVA_RANGE.size > bytes.byteLength) {
    throw broken(`${count} IOVA ranges do not fit into the ${bytes.byteLength} bytes that are left`);
  }
  return Array.from({ length: count }, (_, i) => {
    const range = new StructBuffer(VFIO_IOVA_RANGE, bytes.subarray(i * VFIO_IOVA_RANGE.size));
    return { start: range.getBigInt('start'), last: range.getBigInt('end') };
  });
}

function dirtyTracking(capability: Capability | null): DirtyTrackingSupport | null {
  if (capability === null) return null;
  const migration = new StructBuffer(VFIO_CAP_MIGRATION, capability.bytes);
  const pageSize = smallestPage(migration.getBigInt('pgsize_bitmap'));
  const maximumBitmapBytes = migration.get('max_dirty_bitmap_size');
  if (pageSize === 0 || maximumBitmapBytes < 8) {
    throw new GodwitError(
      'GODWIT_UNSUPPORTED',
      `the container tracks pages of ${pageSize} bytes in bitmaps of ${maximumBitmapBytes} bytes: no use can be made of it`,
    );
  }
  return { pageSize, maximumBitmapBytes };
}

/** The lowest bit as a number of bytes; 0 when none is set. */
function smallestPage(sizes: bigint): number {
  return Number(sizes & -sizes);
}
