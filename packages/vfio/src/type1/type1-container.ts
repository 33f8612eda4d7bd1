import { checkOptions, DirtyBitmap, GodwitError, type GuestMemory } from '@godwit/core';
import { addressOf, Errno, StructBuffer } from '@godwit/linux/unstable';
import { AddressSpace, checkMapping, type Unmapped } from '../address-space.js';
import { Descriptor } from '../descriptor.js';
import type { DmaMapping, DmaSpace, MappingRead, UnmapListener } from '../dma-space.js';
import { type KernelPort, linuxKernel } from '../kernel-port.js';
import { atOnce, type KernelSteps, onPool } from '../kernel-steps.js';
import { Type1, VFIO_BITMAP, VFIO_DMA_MAP, VFIO_DMA_UNMAP } from '../layouts/type1.js';
import { Vfio } from '../layouts/vfio-setup.js';
import { PinnedMappings } from '../pinned-mappings.js';
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

/** Options of `mapMemory`. */
export interface MapMemoryOptions {
  /** IOVA of a guest-physical address. Default: the same address, as for a guest without a virtual IOMMU. */
  readonly iovaOf?: (guestPhysicalAddress: number) => number;
  /** Most bytes of one mapping. Default: the most bytes whose dirty bitmap the kernel can return. */
  readonly largestPiece?: number;
}

/**
 * A VFIO container with the type1v2 IOMMU: an address space for DMA, and the log of devices' writes through it.
 *
 * ```
 * open -> groups in, IOMMU set -> map ... unmap -> close
 *                                  |
 *                                  +-> dirtyLog.start -> read ... -> dirtyLog.stop
 * ```
 *
 * Mappings come and go through this object, during a migration too: it ensures that no dirty bit is lost with its mapping, and that none is
 * taken for one of the next mapping at its address. Stock kernels have type1, which iommufd is to replace
 * (`Documentation/driver-api/vfio.rst`).
 *
 * @example
 * const container = Type1Container.open([VfioGroup.open(iommuGroupOf(folder))]);
 * await container.mapMemory(memory); // the device reaches all of it
 * const tracker = new VfioType1Tracker(container, memory);
 */
export class Type1Container implements DmaSpace {
  readonly info: Type1Info;
  readonly #descriptor: Descriptor;
  readonly #groups: readonly VfioGroup[];
  readonly #space: AddressSpace;
  readonly #pins: PinnedMappings;
  readonly #dirtyLog: Type1DirtyLog | null;
  #closing: Promise<void> | null = null;

  private constructor(
    descriptor: Descriptor,
    info: Type1Info,
    groups: readonly VfioGroup[],
    mappings: readonly DmaMapping[],
  ) {
    this.#descriptor = descriptor;
    this.#groups = groups;
    this.info = info;
    const { dirtyTracking } = info;
    for (const mapping of mappings) checkMapping(mapping, info.smallestPageSize);
    this.#space = new AddressSpace(mappings);
    this.#pins = new PinnedMappings();
    this.#dirtyLog = dirtyTracking === null ? null : new Type1DirtyLog(descriptor, dirtyTracking);
  }

  /**
   * Opens a new container for these groups, which the caller goes on to own: close their devices, then the container, then the groups. A
   * failure undoes the steps that were made.
   *
   * The event loop is blocked meanwhile, for long if devices have much to set up; with `openAsync` it is not.
   *
   * @throws GodwitError GODWIT_UNSUPPORTED without VFIO or its type1v2 IOMMU, GODWIT_PERMISSION, GODWIT_INVALID_STATE when
   * a group is in another container
   */
  static open(groups: readonly VfioGroup[], port: KernelPort = linuxKernel): Type1Container {
    return atOnce(port, opening(groups, port, Type1Container.#made));
  }

  /** `open` on a pool thread: attaching a group sets up its part of the IOMMU. */
  static openAsync(groups: readonly VfioGroup[], port: KernelPort = linuxKernel): Promise<Type1Container> {
    return onPool(port, opening(groups, port, Type1Container.#made));
  }

  /**
   * Takes the container of an embedder that has one already, with its IOMMU set, and that keeps owning `fd`. From here on the embedder must
   * not unmap tracked mappings by itself: the dirty bits of a mapping that is removed without this object are lost. Memory that the
   * embedder has mapped must not be discarded: see `pinHostMemory` of `@godwit/linux`.
   *
   * @param mappings the present mappings, as they were made: the kernel refuses to read the log of a part of a mapping
   */
  static adopt(fd: number, mappings: readonly DmaMapping[], port: KernelPort = linuxKernel): Type1Container {
    const descriptor = new Descriptor(port, fd, `VFIO container ${fd}`, false);
    return new Type1Container(descriptor, readType1Info(port, fd), [], mappings);
  }

  static readonly #made = (descriptor: Descriptor, groups: readonly VfioGroup[]): Type1Container =>
    new Type1Container(descriptor, readType1Info(descriptor.port, descriptor.fd), groups, []);

  /** The descriptor, valid until it is closed. */
  get fd(): number {
    return this.#descriptor.fd;
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

  /**
   * The log of devices' writes.
   *
   * @throws GodwitError GODWIT_UNSUPPORTED when this container has no log
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
   * Maps memory for devices, after all changes that were requested before. With an IOMMU behind the container all of the memory is pinned
   * now, which takes long (on a pool thread) and counts against `ulimit -l`. Guest memory of `@godwit/linux` is not discarded for as long
   * as it is mapped, since a device would go on writing the old pages.
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
    return this.#space.map(mapping, async () => {
      const result = await this.#pins.pinnedBy(mapping, hostAddress, () =>
        this.#descriptor.ioctlAsync(Type1.VFIO_IOMMU_MAP_DMA, argument.bytes),
      );
      if (result >= 0) return;
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
    });
  }

  /** Maps all blocks, in pieces whose dirty bitmaps can be read. If one cannot be mapped, the mappings made by this call are removed. */
  async mapMemory(memory: HostMappedMemory, options: MapMemoryOptions = {}): Promise<readonly DmaMapping[]> {
    checkOptions<MapMemoryOptions>('mapMemory', options, { iovaOf: true, largestPiece: true });
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
   * Unmaps one whole mapping, after all changes that were requested before. While its pages are tracked, the kernel returns their dirty
   * bits in the same call (VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP), and trackers report them at their next harvest. When the kernel unmapped
   * less than was asked, all of the mapping counts as dirty.
   */
  async unmap(which: Pick<DmaMapping, 'iova' | 'byteLength'>): Promise<void> {
    const { mapping, result } = await this.#space.unmap(which, false, (found) => this.#unmap(found));
    succeeded(result, 'VFIO_IOMMU_UNMAP_DMA', described(mapping));
  }

  async #unmap(mapping: DmaMapping): Promise<Unmapped> {
    const log = this.#dirtyLog;
    // A mapping that is too large for a bitmap is unmapped without one, and all of it counts as dirty.
    const bits = log?.running === true && log.takes(mapping);
    const dirty = bits ? new DirtyBitmap(mapping.byteLength / log.pageSize) : null;
    const unmap = unmapArgument(mapping, dirty, log?.pageSize ?? 0);
    const result = await this.#descriptor.ioctlAsync(Type1.VFIO_IOMMU_UNMAP_DMA, unmap.bytes);
    if (result < 0) return { result, dirty: null, byteLength: 0 };
    this.#pins.release(mapping);
    dirty?.maskTail();
    return { result, dirty, byteLength: unmap.get('size') };
  }

  /**
   * Idempotent. Takes the groups out of the container and closes it, and the kernel unmaps everything, before it returns; when calls are in
   * flight, as soon as they are over. An adopted descriptor is not closed.
   *
   * The event loop is blocked until a guest's memory is unpinned; with `closeAsync` it is not.
   */
  close(): void {
    if (!this.#descriptor.isOpen) return;
    atOnce(this.#descriptor.port, this.#steps());
  }

  /** `close` on a pool thread. Resolves when the container is closed. */
  closeAsync(): Promise<void> {
    this.#closing ??= onPool(this.#descriptor.port, this.#steps());
    return this.#closing;
  }

  *#steps(): KernelSteps<void> {
    if (this.#descriptor.isOpen) yield* leaving(this.#groups);
    yield { close: this.#descriptor };
    // The mappings of an adopted descriptor stay.
    if (this.#groups.length > 0) this.#pins.releaseAll();
  }
}

/** Opens a container, puts the groups into it, and sets its IOMMU. */
function* opening<T>(
  groups: readonly VfioGroup[],
  port: KernelPort,
  made: (descriptor: Descriptor, groups: readonly VfioGroup[]) => T,
): KernelSteps<T> {
  if (groups.length === 0) {
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', 'a container has no IOMMU before it has a group; give one');
  }
  const fd = yield { open: '/dev/vfio/vfio' };
  const container = new Descriptor(port, fd, `VFIO container ${fd}`);
  const inside: VfioGroup[] = [];
  try {
    const version = yield { on: container, request: Vfio.VFIO_GET_API_VERSION };
    if (version !== Vfio.VFIO_API_VERSION) {
      throw new GodwitError(
        'GODWIT_UNSUPPORTED',
        `VFIO speaks API version ${version}, Godwit speaks ${Vfio.VFIO_API_VERSION}`,
      );
    }
    const type1 = yield { on: container, request: Vfio.VFIO_CHECK_EXTENSION, argument: Vfio.VFIO_TYPE1v2_IOMMU };
    if (type1 !== 1) {
      throw new GodwitError('GODWIT_UNSUPPORTED', 'VFIO has no type1v2 IOMMU; load the module vfio_iommu_type1');
    }
    for (const group of groups) {
      yield* group.enters(fd);
      inside.push(group);
    }
    const set = yield { on: container, request: Vfio.VFIO_SET_IOMMU, argument: Vfio.VFIO_TYPE1v2_IOMMU };
    succeeded(set, 'VFIO_SET_IOMMU', `type1v2 on container ${fd}`, { [Errno.ENODEV]: { code: 'GODWIT_UNSUPPORTED' } });
    return made(container, groups);
  } catch (error) {
    yield* leaving(inside);
    yield { close: container };
    throw error;
  }
}

/** Takes groups out of their container, as far as they are open and the kernel allows it, which it does not while a device is open. */
function* leaving(groups: readonly VfioGroup[]): KernelSteps<void> {
  for (const group of groups) yield* group.leaves();
}

function unmapArgument(
  { iova, byteLength }: DmaMapping,
  dirty: DirtyBitmap | null,
  pageSize: number,
): StructBuffer<keyof typeof VFIO_DMA_UNMAP.fields> {
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
  return unmap;
}

/** Checks the addresses here, since the kernel returns EINVAL for this and for five other mistakes. */
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
