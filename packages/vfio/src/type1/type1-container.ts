import { DirtyBitmap, GodwitError, type GuestMemory } from '@godwit/core';
import { addressOf, Errno, StructBuffer } from '@godwit/linux';
import type { DmaMapping, DmaSpace, UnmapListener } from '../dma-space.js';
import { type KernelPort, linuxKernel } from '../kernel-port.js';
import { Type1, VFIO_BITMAP, VFIO_DMA_MAP, VFIO_DMA_UNMAP } from '../layouts/type1.js';
import { Vfio } from '../layouts/vfio-setup.js';
import { checkMapping, MappingList } from '../mapping-list.js';
import { succeeded } from '../syscall-result.js';
import { type IovaRange, readType1Info, type Type1Info } from './iommu-info.js';
import { largestMapping, mappingPieces } from './mapping-pieces.js';
import { Type1DirtyLog } from './type1-dirty-log.js';
import type { VfioGroup } from './vfio-group.js';

/** A mapping to make, and the memory of this process that it shows. */
export interface MapRequest extends DmaMapping {
  readonly hostAddress: bigint;
  /** Default true. */
  readonly writable?: boolean;
}

/** Guest memory whose blocks are mappings of this process, as `createGuestMemory` makes it. */
export interface HostMappedMemory extends GuestMemory {
  readonly blocks: readonly (GuestMemory['blocks'][number] & { readonly hostAddress: bigint })[];
}

export interface MapMemoryOptions {
  /** IOVA of a guest-physical address. Default: the same, as a guest without a virtual IOMMU sees it. */
  readonly iovaOf?: (guestPhysicalAddress: number) => number;
  /** Most bytes of one mapping. Default: as much as the kernel can give a dirty bitmap for. */
  readonly largestPiece?: number;
}

/**
 * A VFIO container with the type1v2 IOMMU: an address space for DMA, and the log of what devices wrote through it.
 *
 * ```
 * open -> groups in, IOMMU set -> map ... unmap -> close
 *                                  |
 *                                  +-> dirtyLog.start -> read ... -> dirtyLog.stop
 * ```
 *
 * Mappings come and go through this object, during a migration too: it sees to it that no dirty bit dies with its
 * mapping. Type1 is what stock kernels have; it is meant to give way to iommufd one day (`Documentation/driver-api/vfio.rst`).
 */
export class Type1Container implements DmaSpace {
  readonly fd: number;
  readonly info: Type1Info;
  readonly #port: KernelPort;
  readonly #owned: boolean;
  readonly #list: MappingList;
  readonly #dirtyLog: Type1DirtyLog | null;
  #open = true;

  private constructor(port: KernelPort, fd: number, owned: boolean, mappings: readonly DmaMapping[]) {
    this.#port = port;
    this.fd = fd;
    this.#owned = owned;
    this.info = readType1Info(port, fd);
    const { dirtyTracking } = this.info;
    for (const mapping of mappings) checkMapping(mapping, this.info.smallestPageSize);
    this.#list = new MappingList(mappings);
    this.#dirtyLog = dirtyTracking === null ? null : new Type1DirtyLog(port, fd, dirtyTracking);
  }

  /**
   * A container of its own for these groups, which stay the caller's: close the container before them.
   *
   * @throws GodwitError GODWIT_UNSUPPORTED without VFIO or its type1v2 IOMMU, GODWIT_PERMISSION, GODWIT_INVALID_STATE when
   * a group is in another container
   */
  static open(groups: readonly VfioGroup[], port: KernelPort = linuxKernel): Type1Container {
    if (groups.length === 0) {
      throw new GodwitError('GODWIT_INVALID_ARGUMENT', 'a container has no IOMMU before it has a group; give one');
    }
    const fd = port.open('/dev/vfio/vfio');
    try {
      const version = port.ioctl(fd, Vfio.VFIO_GET_API_VERSION);
      if (version !== Vfio.VFIO_API_VERSION) {
        throw new GodwitError(
          'GODWIT_UNSUPPORTED',
          `VFIO speaks API version ${version}, Godwit speaks ${Vfio.VFIO_API_VERSION}`,
        );
      }
      if (port.ioctl(fd, Vfio.VFIO_CHECK_EXTENSION, Vfio.VFIO_TYPE1v2_IOMMU) !== 1) {
        throw new GodwitError('GODWIT_UNSUPPORTED', 'VFIO has no type1v2 IOMMU; load the module vfio_iommu_type1');
      }
      for (const group of groups) group.setContainer(fd);
      succeeded(
        port.ioctl(fd, Vfio.VFIO_SET_IOMMU, Vfio.VFIO_TYPE1v2_IOMMU),
        'VFIO_SET_IOMMU',
        `type1v2 on container ${fd}`,
        { [Errno.ENODEV]: { code: 'GODWIT_UNSUPPORTED' } },
      );
      return new Type1Container(port, fd, true, []);
    } catch (error) {
      port.close(fd);
      throw error;
    }
  }

  /**
   * For an embedder that has a container already, with its IOMMU set: `fd` stays its own. From here on mappings that it
   * unmaps by itself must not be in use for tracking: a mapping that goes behind this object's back takes its dirty bits
   * along.
   *
   * @param mappings what is mapped now, as it was mapped: the kernel refuses to tell about a part of a mapping
   */
  static adopt(fd: number, mappings: readonly DmaMapping[], port: KernelPort = linuxKernel): Type1Container {
    return new Type1Container(port, fd, false, mappings);
  }

  get mappings(): readonly DmaMapping[] {
    return this.#list.mappings;
  }

  listen(listener: UnmapListener): () => void {
    return this.#list.listen(listener);
  }

  /**
   * The log of what devices wrote.
   *
   * @throws GodwitError GODWIT_UNSUPPORTED when this container has none
   */
  get dirtyLog(): Type1DirtyLog {
    if (this.#dirtyLog !== null) return this.#dirtyLog;
    throw new GodwitError(
      'GODWIT_UNSUPPORTED',
      'this container cannot track dirty pages: VFIO_IOMMU_GET_INFO has no migration capability, which needs Linux 5.8 and ' +
        'a container of vfio_iommu_type1 (iommufd behind /dev/vfio/vfio has none). Use devices that log their own DMA, or iommufd',
    );
  }

  /**
   * Maps memory for devices. With an IOMMU behind the container all of it is pinned now, which takes its time (on a pool
   * thread) and counts against `ulimit -l`.
   *
   * @throws SyscallError GODWIT_INVALID_ARGUMENT for a range that overlaps another or that devices cannot address,
   * GODWIT_OUT_OF_MEMORY when the lock limit is reached, GODWIT_LIMIT_EXCEEDED when there are too many mappings
   */
  async map(request: MapRequest): Promise<DmaMapping> {
    const { iova, byteLength, guestPhysicalAddress, hostAddress, writable = true } = request;
    const mapping: DmaMapping = { iova, byteLength, guestPhysicalAddress };
    checkMapping(mapping, this.info.smallestPageSize);
    checkAddressable(mapping, this.info.iovaRanges);
    const argument = new StructBuffer(VFIO_DMA_MAP)
      .set('argsz', VFIO_DMA_MAP.size)
      .set('flags', Type1.VFIO_DMA_MAP_FLAG_READ | (writable ? Type1.VFIO_DMA_MAP_FLAG_WRITE : 0))
      .set('vaddr', hostAddress)
      .set('iova', iova)
      .set('size', byteLength);
    const result = await this.#port.ioctlAsync(this.fd, Type1.VFIO_IOMMU_MAP_DMA, argument.bytes);
    succeeded(result, 'VFIO_IOMMU_MAP_DMA', described(mapping), {
      [Errno.EEXIST]: { code: 'GODWIT_INVALID_ARGUMENT', advice: 'it overlaps a mapping' },
      [Errno.EINVAL]: { code: 'GODWIT_INVALID_ARGUMENT' },
      [Errno.ENOMEM]: {
        advice: 'memory for DMA is locked; raise `ulimit -l` (RLIMIT_MEMLOCK) by the size of the guest',
      },
      [Errno.ENOSPC]: {
        code: 'GODWIT_LIMIT_EXCEEDED',
        advice: 'the parameter dma_entry_limit of vfio_iommu_type1 says how many mappings there may be',
      },
    });
    this.#list.add(mapping);
    return mapping;
  }

  /** Maps all blocks, in pieces whose dirty bitmaps can be had. Undoes what it did when one cannot be mapped. */
  async mapMemory(memory: HostMappedMemory, options: MapMemoryOptions = {}): Promise<readonly DmaMapping[]> {
    const { iovaOf = (address) => address } = options;
    const { dirtyTracking } = this.info;
    const largest =
      options.largestPiece ?? (dirtyTracking === null ? Number.MAX_SAFE_INTEGER : largestMapping(dirtyTracking));
    const made: DmaMapping[] = [];
    try {
      for (const { guestPhysicalAddress, byteLength, hostAddress } of memory.blocks) {
        for (const piece of mappingPieces(byteLength, largest)) {
          const address = guestPhysicalAddress + piece.offset;
          made.push(
            await this.map({
              iova: iovaOf(address),
              byteLength: piece.byteLength,
              guestPhysicalAddress: address,
              hostAddress: hostAddress + BigInt(piece.offset),
            }),
          );
        }
      }
      return made;
    } catch (error) {
      for (const mapping of made) await this.unmap(mapping).catch(() => {});
      throw error;
    }
  }

  /**
   * Unmaps one whole mapping. While its pages are tracked the kernel hands over their dirty bits in the same call
   * (VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP), and trackers report them at their next harvest.
   */
  async unmap(which: Pick<DmaMapping, 'iova' | 'byteLength'>): Promise<void> {
    const mapping = this.#list.find(which);
    await this.#list.unmapping(mapping);
    const log = this.#dirtyLog;
    const dirty = log?.running === true ? new DirtyBitmap(mapping.byteLength / log.pageSize) : null;
    const argument = unmapArgument(mapping, dirty, log?.pageSize ?? 0);
    const result = await this.#port.ioctlAsync(this.fd, Type1.VFIO_IOMMU_UNMAP_DMA, argument);
    if (result < 0) {
      // What of it is gone, and which bits with it, nobody knows.
      this.#list.lost(mapping, null);
      succeeded(result, 'VFIO_IOMMU_UNMAP_DMA', described(mapping));
    }
    dirty?.maskTail();
    this.#list.unmapped(mapping, dirty);
  }

  /** Idempotent. The kernel unmaps everything with the last descriptor. Leaves an adopted descriptor alone. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    if (this.#owned) this.#port.close(this.fd);
  }
}

function unmapArgument({ iova, byteLength }: DmaMapping, dirty: DirtyBitmap | null, pageSize: number): Uint8Array {
  const extra = dirty === null ? 0 : VFIO_BITMAP.size;
  const unmap = new StructBuffer(VFIO_DMA_UNMAP, extra)
    .set('argsz', VFIO_DMA_UNMAP.size + extra)
    .set('flags', dirty === null ? 0 : Type1.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP)
    .set('iova', iova)
    .set('size', byteLength);
  if (dirty !== null) {
    new StructBuffer(VFIO_BITMAP, unmap.bytes.subarray(VFIO_DMA_UNMAP.size))
      .set('pgsize', pageSize)
      .set('size', dirty.words.byteLength)
      .set('data', addressOf(dirty.bytes));
  }
  return unmap.bytes;
}

/** The kernel says EINVAL to this and to five other things: better say it ourselves. */
function checkAddressable(mapping: DmaMapping, ranges: readonly IovaRange[] | null): void {
  if (ranges === null) return;
  const start = BigInt(mapping.iova);
  const last = start + BigInt(mapping.byteLength) - 1n;
  if (ranges.some((range) => range.start <= start && last <= range.last)) return;
  const offered = ranges.map((range) => `0x${range.start.toString(16)}..0x${range.last.toString(16)}`).join(', ');
  throw new GodwitError(
    'GODWIT_INVALID_ARGUMENT',
    `the mapping ${described(mapping)} cannot be reached by the devices, which address ${offered}`,
  );
}

function described({ iova, byteLength }: DmaMapping): string {
  return `of ${byteLength} bytes at IOVA 0x${iova.toString(16)}`;
}
