import { fstatSync } from 'node:fs';
import { GodwitError, quoted } from '@godwit/core/errors';
import { assertMayChange, checkOptions, type GuestMemory, type MissingMemory } from '@godwit/core/pages';
import {
  closeFd,
  Errno,
  ftruncate,
  HOST_PAGE_SIZE,
  MapFlags,
  MemoryAdvice,
  madvise,
  memfdCreate,
  mmap,
  munmap,
  Protection,
  SyscallError,
} from '../libc/index.js';
import { type BlockPlacement, checkBlockFields, checkBlockLayout, PLACEMENT_FIELDS } from './block-layout.js';
import { checkFitsHost } from './host-memory.js';
import {
  type HugePages,
  type MemoryBacking,
  requireTransparentHugePages,
  reservedHugePages,
  TRANSPARENT_HUGE_PAGE_BYTES,
  transparentHugePagesObstacle,
} from './huge-pages.js';
import { type BlockBacking, MappedRamBlock } from './mapped-ram-block.js';
import { probePagemapScan } from './pagemap-scan-support.js';

/** Options of `createGuestMemory`. */
export interface GuestMemoryOptions {
  /** Bytes; the granularity of dirty tracking. Default: the host's page size, which KVM's dirty log needs. */
  readonly pageSize?: number;
  readonly blocks: readonly BlockPlacement[];
  /** Default: pages of the host's ordinary size. */
  readonly hugePages?: HugePages;
  /**
   * What the memory is made of.
   *
   * - `file` (the default): a memory file for each block, which other processes can map too.
   * - `anonymous`: memory of this process alone. Most hosts give it transparent huge pages, which they do not give to memory files, and
   *   fresh memory is filled in about half the time then. It cannot be `shared`, nor handed over to another process, and there are no
   *   reserved huge pages of it. Needs Linux 6.7 (PAGEMAP_SCAN), to tell holes.
   * - `auto`: anonymous memory in transparent huge pages where the host has both and no other option stands against it, else files. One
   *   touched byte then takes 2 MiB from the host.
   */
  readonly backing?: MemoryBacking | 'auto';
  /** Allow more memory than the host's RAM and swap: the guest is sparse. Default false. See `checkFitsHost`. */
  readonly overcommit?: boolean;
}

/** A block for `attachGuestMemory`: by address (same process), by memory file, or both. */
export interface BlockAttachment extends BlockPlacement {
  /**
   * Where the block is mapped in this process already; that mapping is used and stays its owner's. Without it, the
   * file is mapped once more.
   */
  readonly hostAddress?: bigint;
  /** The memory file; stays its owner's. Without it, holes cannot be seen or made, unless the memory is anonymous. */
  readonly fd?: number;
  /** What is mapped at `hostAddress` is anonymous memory, all of the block. */
  readonly anonymous?: true | undefined;
  /** Where the block starts in the memory file, in bytes: a multiple of the host's page size. Default 0. */
  readonly fileOffset?: number;
  /** Which parts are pinned (`MappedRamBlock.pins`); without it, what is pinned in other threads is not known. */
  readonly pins?: SharedArrayBuffer;
}

const ATTACHMENT_FIELDS: Readonly<Record<keyof BlockAttachment, true>> = {
  ...PLACEMENT_FIELDS,
  hostAddress: true,
  fd: true,
  anonymous: true,
  fileOffset: true,
  pins: true,
};

/** What a worker thread needs to see the same memory; goes through `postMessage` as it is. */
export interface GuestMemoryAttachment {
  readonly pageSize?: number;
  readonly blocks: readonly BlockAttachment[];
}

/**
 * Guest memory on memory files, or anonymous, mapped into this process. Made by `createGuestMemory` or `attachGuestMemory`.
 *
 * @example
 * const memory: MappedGuestMemory = createGuestMemory({ blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 2 ** 30 }] });
 * memory.blocks[0].view(0, 4096).fill(1);
 * memory.close();
 */
export class MappedGuestMemory implements GuestMemory {
  readonly pageSize: number;
  readonly blocks: readonly MappedRamBlock[];
  #missing: Pick<MissingMemory, 'present'> | undefined;

  constructor(pageSize: number, blocks: readonly MappedRamBlock[]) {
    this.pageSize = pageSize;
    this.blocks = blocks;
  }

  /**
   * Resolves when these bytes may be touched by a thread that must not wait for a missing page, such as an event loop: at once, but while
   * pages come with the guest running already (a restore that runs at once). `block` is an index, the others are in bytes.
   *
   * @throws GodwitError GODWIT_PAGES_MISSING for pages that cannot be had
   */
  async present(block: number, offset: number, byteLength: number): Promise<void> {
    await this.#missing?.present(block, offset, byteLength);
  }

  /** What serves its missing pages, or has served them and could not have all; `undefined` where none is missing. */
  get missing(): Pick<MissingMemory, 'present'> | undefined {
    return this.#missing;
  }

  /** Set by what serves missing pages, when it begins and when it ends. */
  set missing(missing: Pick<MissingMemory, 'present'> | undefined) {
    this.#missing = missing;
  }

  /** Bytes that the host has given to this memory so far (blocks that were attached by address alone not counted). */
  allocatedBytes(): number {
    return this.blocks.reduce((bytes, block) => bytes + block.allocatedBytes(), 0);
  }

  /**
   * For a worker thread of this process: `attachGuestMemory(memory.attachment())` there sees the same mapping.
   *
   * @throws GodwitError GODWIT_INVALID_STATE once the memory is closed
   */
  attachment(): GuestMemoryAttachment {
    for (const block of this.blocks) block.requireOpen();
    const blocks = this.blocks.map((block) => {
      const { id, guestPhysicalAddress, byteLength, hostAddress, fd, fileOffset, pins, shared, readOnly, anonymous } =
        block;
      return {
        ...{ id, guestPhysicalAddress, byteLength, hostAddress, pins },
        ...(fd === null ? {} : { fd }),
        ...(anonymous && { anonymous }),
        ...(fileOffset === 0 ? {} : { fileOffset }),
        ...(shared && { shared }),
        ...(readOnly && { readOnly }),
      };
    });
    return { pageSize: this.pageSize, blocks };
  }

  /**
   * Closes every block; see `MappedRamBlock.close` for what must be over by then. Idempotent.
   *
   * @throws GodwitError GODWIT_CLAIMED while a migration uses the memory: nothing was closed. `claimOf(vm).free` resolves when it may be;
   * `abandon` may close it at once
   */
  close(): void {
    for (const part of [this, ...this.blocks]) assertMayChange(part, 'unmap guest memory');
    for (const block of this.blocks) block.close();
  }
}

/**
 * Makes memory for a guest: one memory file (memfd) per block, mapped shared, or anonymous memory (`backing`); without reservation, all
 * holes. The mappings are not inherited by forked children (whose writes nobody would track).
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT for an option or a block's field that does not exist, and for a bad layout
 * (`checkBlockLayout`), GODWIT_OUT_OF_MEMORY for memory that cannot fit (`checkFitsHost`), GODWIT_UNSUPPORTED for huge pages that the host
 * does not give; SyscallError
 *
 * @example
 * const memory = createGuestMemory({ blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 2 ** 30 }] });
 * memory.blocks[0].view(0x1000, 4).set([1, 2, 3, 4]);
 * memory.close();
 */
export function createGuestMemory(options: GuestMemoryOptions): MappedGuestMemory {
  checkOptions<GuestMemoryOptions>('createGuestMemory', options, {
    pageSize: true,
    blocks: true,
    hugePages: true,
    backing: true,
    overcommit: true,
  });
  checkBlockFields<BlockPlacement>('createGuestMemory', options.blocks, PLACEMENT_FIELDS);
  const pageSize = options.pageSize ?? HOST_PAGE_SIZE;
  checkBlockLayout(pageSize, options.blocks);
  const { backing, hugePages } = kindOf(options);
  if (backing === 'anonymous') checkAnonymous(options);
  checkFitsHost(
    options.blocks.map((block) => block.byteLength),
    { overcommit: options.overcommit ?? false, files: backing === 'file' },
  );
  if (hugePages === 'transparent') requireTransparentHugePages(backing);
  return build(pageSize, options.blocks, (block) =>
    backing === 'anonymous'
      ? { ...mapAnonymous(block.byteLength, hugePages), fd: null, anonymous: true, ownsFd: false }
      : createBacking(block, hugePages),
  );
}

/**
 * Sees memory that exists already: in a worker thread by the address of the owner's mapping, or through its memory file.
 *
 * Writes through a second mapping (a block given by `fd` alone) are not seen by `PagemapTracker` on the first one:
 * threads of the process that is migrated attach by address. Closing leaves the owner's mapping and file alone; the
 * owner must outlive this.
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT for a field that does not exist, a bad layout, or a block with neither address nor file
 *
 * @example
 * // In a new VMM that has inherited the memory file as descriptor 3.
 * attachGuestMemory({ blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 2 ** 30, fd: 3, shared: true }] });
 */
export function attachGuestMemory(attachment: GuestMemoryAttachment): MappedGuestMemory {
  checkOptions<GuestMemoryAttachment>('attachGuestMemory', attachment, { pageSize: true, blocks: true });
  checkBlockFields<BlockAttachment>('attachGuestMemory', attachment.blocks, ATTACHMENT_FIELDS);
  const pageSize = attachment.pageSize ?? HOST_PAGE_SIZE;
  checkBlockLayout(pageSize, attachment.blocks);
  return build(pageSize, attachment.blocks, attachBacking);
}

/** What the memory is made of, with `auto` decided. */
function kindOf({ backing = 'file', hugePages, blocks }: GuestMemoryOptions): {
  readonly backing: MemoryBacking;
  readonly hugePages: HugePages | undefined;
} {
  if (backing === 'file' || backing === 'anonymous') return { backing, hugePages };
  if (backing !== 'auto') {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `backing must be 'file', 'anonymous' or 'auto', got ${quoted(backing)}`,
    );
  }
  const isFile = reservedHugePages(hugePages) !== null || blocks.some((block) => block.shared);
  if (isFile || transparentHugePagesObstacle('anonymous') !== null || !hasPagemapScan()) {
    return { backing: 'file', hugePages };
  }
  return { backing: 'anonymous', hugePages: 'transparent' };
}

function hasPagemapScan(): boolean {
  try {
    probePagemapScan();
    return true;
  } catch {
    return false;
  }
}

function checkAnonymous({ hugePages, blocks }: GuestMemoryOptions): void {
  if (reservedHugePages(hugePages) !== null) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `reserved huge pages (${hugePages}) come as memory files; leave out backing: 'anonymous', or use hugePages: 'transparent'`,
    );
  }
  const shared = blocks.find((block) => block.shared);
  if (shared !== undefined) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `RAM block ${shared.id} cannot be shared: no other process can map anonymous memory; leave out backing: 'anonymous'`,
    );
  }
  probePagemapScan();
}

function build<B extends BlockPlacement>(
  pageSize: number,
  placements: readonly B[],
  back: (placement: B) => BlockBacking,
): MappedGuestMemory {
  const blocks: MappedRamBlock[] = [];
  try {
    for (const placement of placements) blocks.push(new MappedRamBlock(placement, pageSize, back(placement)));
  } catch (error) {
    for (const block of blocks) block.close();
    throw error;
  }
  return new MappedGuestMemory(pageSize, blocks);
}

function createBacking(block: BlockPlacement, hugePages: HugePages | undefined): BlockBacking {
  const reserved = reservedHugePages(hugePages);
  if (reserved !== null && block.byteLength % reserved.bytes !== 0) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `RAM block ${block.id} of ${block.byteLength} bytes is no multiple of its huge pages of ${reserved.bytes}`,
    );
  }
  let fd: number | null = null;
  try {
    fd = memfdCreate(`godwit:${block.id}`, reserved?.flags ?? 0);
    ftruncate(fd, block.byteLength);
    return { ...mapNew(fd, block.byteLength, hugePages), fd, ownsFd: true, hugePages: hugePages === 'transparent' };
  } catch (error) {
    if (fd !== null) closeFd(fd);
    if (reserved === null) throw error;
    throw new GodwitError(
      GodwitError.is(error) && error.code === 'GODWIT_OUT_OF_MEMORY' ? error.code : 'GODWIT_UNSUPPORTED',
      `RAM block ${block.id} needs ${block.byteLength / reserved.bytes} huge pages of ${hugePages}, which the host does ` +
        'not have; reserve them with `sysctl vm.nr_hugepages` (1 GiB pages: on the kernel command line)',
      { cause: error },
    );
  }
}

function mapNew(fd: number, byteLength: number, hugePages: HugePages | undefined): Mapping {
  if (hugePages === undefined) return mapShared(fd, byteLength);
  if (hugePages === 'transparent') return mapAligned(fd, byteLength);
  // With a reservation: a page that the pool cannot give later would end the process with SIGBUS.
  return mapShared(fd, byteLength, MapFlags.MAP_SHARED);
}

function attachBacking(block: BlockAttachment): BlockBacking {
  const fd = block.fd ?? null;
  const pins = block.pins === undefined ? {} : { pins: block.pins };
  const { fileOffset = 0 } = block;
  if (!Number.isSafeInteger(fileOffset) || fileOffset < 0 || fileOffset % HOST_PAGE_SIZE !== 0) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `RAM block ${block.id} starts in its memory file at a multiple of ${HOST_PAGE_SIZE} bytes, got ${fileOffset}`,
    );
  }
  const { anonymous } = block;
  if (anonymous && (fd !== null || block.hostAddress === undefined)) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `RAM block ${block.id} is anonymous memory, which is attached by its address and has no file`,
    );
  }
  const place = { fd, fileOffset, ownsFd: false, anonymous, ...pins };
  if (block.hostAddress !== undefined) return { hostAddress: block.hostAddress, ...place };
  if (fd === null) {
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `RAM block ${block.id} is attached by its address or its file`);
  }
  const { size } = fstatSync(fd);
  if (size < fileOffset + block.byteLength) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `the memory file of RAM block ${block.id} has ${size} bytes, fewer than ${fileOffset + block.byteLength}`,
    );
  }
  return { ...mapShared(fd, block.byteLength, SHARED, fileOffset), ...place };
}

type Mapping = Required<Pick<BlockBacking, 'hostAddress' | 'reservation'>>;

const SHARED = MapFlags.MAP_SHARED | MapFlags.MAP_NORESERVE;
const ANONYMOUS = MapFlags.MAP_PRIVATE | MapFlags.MAP_ANONYMOUS | MapFlags.MAP_NORESERVE;

function mapShared(fd: number, byteLength: number, flags: number = SHARED, offset = 0): Mapping {
  const hostAddress = mmap({ fd, byteLength, flags, offset });
  madvise(hostAddress, byteLength, MemoryAdvice.MADV_DONTFORK);
  return { hostAddress, reservation: { address: hostAddress, byteLength } };
}

function mapAnonymous(byteLength: number, hugePages: HugePages | undefined): Mapping {
  const mapping = mapAligned(null, byteLength);
  // Where the host gives huge pages unasked, an embedder that wants none gets none.
  if (hugePages === undefined) tryMadvise(mapping.hostAddress, byteLength, MemoryAdvice.MADV_NOHUGEPAGE);
  return mapping;
}

/** Advice that a kernel without transparent huge pages does not know (EINVAL). */
function tryMadvise(address: bigint, byteLength: number, advice: number): void {
  try {
    madvise(address, byteLength, advice);
  } catch (error) {
    if (!(error instanceof SyscallError && error.errno === Errno.EINVAL)) throw error;
  }
}

/**
 * Maps at a multiple of 2 MiB, so that a huge page of the file is one of the mapping (and of KVM's) as well. Without a file, anonymous memory.
 */
function mapAligned(fd: number | null, byteLength: number): Mapping {
  const unit = TRANSPARENT_HUGE_PAGE_BYTES;
  const reservedBytes = byteLength + unit;
  const address = mmap({
    byteLength: reservedBytes,
    protection: Protection.PROT_NONE,
    flags: ANONYMOUS,
  });
  try {
    const past = Number(address % BigInt(unit));
    const hostAddress = address + BigInt(past === 0 ? 0 : unit - past);
    const kind = fd === null ? { flags: ANONYMOUS | MapFlags.MAP_FIXED } : { fd, flags: SHARED | MapFlags.MAP_FIXED };
    mmap({ ...kind, byteLength, address: hostAddress });
    madvise(hostAddress, byteLength, MemoryAdvice.MADV_DONTFORK);
    tryMadvise(hostAddress, byteLength, MemoryAdvice.MADV_HUGEPAGE);
    return { hostAddress, reservation: { address, byteLength: reservedBytes } };
  } catch (error) {
    munmap(address, reservedBytes);
    throw error;
  }
}
