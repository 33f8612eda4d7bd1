import { fstatSync } from 'node:fs';
import {
  assertMayChange,
  GodwitError,
  type MemoryFile,
  type PageRun,
  RAM_WINDOW_BYTES,
  type RamBlock,
} from '@godwit/core/pages';
import { closeFd, HOST_PAGE_SIZE, MemoryAdvice, madvise, munmap, punchHole, viewOf } from '../libc/index.js';
import { anonymousExtents } from './anonymous-extent.js';
import type { BlockPlacement } from './block-layout.js';
import { dataExtents } from './data-extent.js';
import { fileIdentity } from './file-identity.js';
import { PinCounts } from './pin-counts.js';
import { blockClosed, blockOpened, blockWithIdentity, pinnedBytes, unlessPinnedElsewhere } from './pinned-memory.js';

/** What a block is made of, and which parts of it the block lets go of when it closes. */
export interface BlockBacking {
  readonly hostAddress: bigint;
  /** The memory file; null for anonymous memory, and when only the address is known. */
  readonly fd: number | null;
  /** The mapping is private anonymous memory: no file is behind it. */
  readonly anonymous?: true | undefined;
  /** Where the block starts in the file, in bytes. Default 0. */
  readonly fileOffset?: number;
  /** Address range to unmap on close; absent when somebody else owns the mapping. */
  readonly reservation?: { readonly address: bigint; readonly byteLength: number };
  /** The mapping asks for transparent huge pages. */
  readonly hugePages?: boolean;
  /** Whether `close` closes `fd`. */
  readonly ownsFd: boolean;
  /** Which parts are pinned, when another thread counts that already (`PinCounts.storage`). */
  readonly pins?: SharedArrayBuffer;
}

/**
 * Bytes under one ArrayBuffer: as many as Node 20 gives one (4 GiB). V8 counts each as memory of its heap, and may collect garbage for it, so
 * that few large ones take less time than one for each window. A multiple of `RAM_WINDOW_BYTES`.
 */
const SPAN_BYTES = 4 * RAM_WINDOW_BYTES;

/**
 * A RAM block that is a shared mapping of a memory file, or anonymous memory of this process.
 *
 * @example
 * const [ram] = createGuestMemory({ blocks }).blocks;
 * vm.setMemoryRegion({ slot: 0, guestPhysicalAddress: 0, byteLength: ram.byteLength, hostAddress: ram.hostAddress });
 */
export class MappedRamBlock implements RamBlock {
  readonly id: string;
  readonly guestPhysicalAddress: number;
  readonly byteLength: number;
  /** The guest cannot write the block; see `RamBlock.readOnly`. */
  readonly readOnly: true | undefined;
  /** Where the block starts in this process. The whole block is one mapping. */
  readonly hostAddress: bigint;
  /** Where the block starts in its memory file, in bytes. */
  readonly fileOffset: number;
  readonly #pageSize: number;
  readonly #backing: BlockBacking;
  readonly #pins: PinCounts;
  readonly #identity: string | undefined;
  readonly #writable: boolean;
  /** Views of `SPAN_BYTES` each, made when they are first asked for; those of `view` are parts of them. */
  readonly #spans: (Uint8Array | undefined)[];
  #closed = false;
  #shared: true | undefined;

  constructor(placement: BlockPlacement, pageSize: number, backing: BlockBacking) {
    this.id = placement.id;
    this.guestPhysicalAddress = placement.guestPhysicalAddress;
    this.byteLength = placement.byteLength;
    this.#shared = placement.shared;
    this.readOnly = placement.readOnly;
    this.fileOffset = backing.fileOffset ?? 0;
    this.hostAddress = backing.hostAddress;
    this.#pageSize = pageSize;
    this.#backing = backing;
    // Now: an attached descriptor is its owner's, who may close it, and its number may be another file's then.
    const file = backing.fd === null ? undefined : fileIdentity(backing.fd);
    this.#identity = file === undefined ? undefined : `${file}+${this.fileOffset}`;
    this.#writable = backing.fd !== null && backing.hugePages !== true && hasOrdinaryPages(backing.fd);
    this.#spans = new Array(Math.ceil(placement.byteLength / SPAN_BYTES));
    // Two objects over one file: what is pinned through one is not discarded through the other.
    const pins = backing.pins ?? blockWithIdentity(this.#identity, this.byteLength)?.pins;
    this.#pins = new PinCounts(placement.byteLength, pins);
    blockOpened(this);
    // A migration claims anonymous memory by its first view. V8 may collect garbage for a view, for 20 ms: now, not when a guest moves.
    if (backing.anonymous) this.#span(0);
  }

  /**
   * The memory file behind the block (`fileOffset` is page 0); null for anonymous memory, when it was attached by address alone, and after
   * `close`.
   */
  get fd(): number | null {
    return this.#closed ? null : this.#backing.fd;
  }

  /**
   * Whether source and destination of the next migration map the same memory for this block: see `RamBlock.shared`. Both owners say so
   * before they call `migrate` and `receive`; a VM whose memory stays where it is declares it for that move only.
   *
   * @throws GodwitError GODWIT_CLAIMED when it is set while a migration uses the block
   */
  get shared(): true | undefined {
    return this.#shared;
  }

  set shared(shared: true | undefined) {
    assertMayChange(this, `change whether RAM block "${this.id}" is shared`);
    this.#shared = shared;
  }

  /** The block is anonymous memory: only this process can map it, and no file names it. */
  get anonymous(): true | undefined {
    return this.#backing.anonymous;
  }

  /** Which parts are pinned, for other threads that see this memory. */
  get pins(): SharedArrayBuffer {
    return this.#pins.storage;
  }

  /**
   * `bootId/device:inode+offset` of the memory file: the same for every block over this memory, in any process of this host,
   * whichever way the file got there. Undefined for anonymous memory, when the block was attached by address alone, and after `close`.
   */
  get identity(): string | undefined {
    return this.#closed ? undefined : this.#identity;
  }

  /**
   * @throws GodwitError GODWIT_OUT_OF_RANGE outside the block, GODWIT_INVALID_ARGUMENT for a range that crosses a
   * multiple of `RAM_WINDOW_BYTES`, GODWIT_INVALID_STATE after `close`
   */
  view(offset: number, length: number): Uint8Array {
    this.requireOpen();
    if (!(offset >= 0 && length >= 0 && offset + length <= this.byteLength)) {
      throw new GodwitError(
        'GODWIT_OUT_OF_RANGE',
        `bytes ${offset}..${offset + length} are outside RAM block ${this.id} of ${this.byteLength} bytes`,
      );
    }
    if ((offset % RAM_WINDOW_BYTES) + length > RAM_WINDOW_BYTES) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        `a view does not cross a multiple of ${RAM_WINDOW_BYTES} bytes: ${offset}..${offset + length} of ${this.id} does`,
      );
    }
    const index = Math.floor(offset / SPAN_BYTES);
    const start = offset - index * SPAN_BYTES;
    return this.#span(index).subarray(start, start + length);
  }

  /**
   * The pages with memory behind them: nothing is read, nothing is allocated, and swapped-out pages count. A memory file is asked by
   * SEEK_DATA and mincore, anonymous memory by PAGEMAP_SCAN. The cost is bounded by the range. Rounded outwards to pages. Of a block that
   * was attached by address alone every page counts as populated.
   */
  *populated(
    range: PageRun = { firstPage: 0, pageCount: this.byteLength / this.#pageSize },
  ): IterableIterator<PageRun> {
    const { end } = this.#checkRange(range);
    if (this.fd === null && this.anonymous === undefined) {
      if (range.pageCount > 0) yield { firstPage: range.firstPage, pageCount: range.pageCount };
      return;
    }
    const pageSize = this.#pageSize;
    let pending: { firstPage: number; pageCount: number } | null = null;
    const { fileOffset } = this;
    for (const extent of this.#extents(fileOffset + range.firstPage * pageSize, fileOffset + end * pageSize)) {
      const first = Math.floor((extent.start - fileOffset) / pageSize);
      const stop = Math.min(Math.ceil((extent.end - fileOffset) / pageSize), end);
      // Extents may touch, and share a page that is larger than the host's: one run for the caller.
      if (pending !== null && pending.firstPage + pending.pageCount >= first) {
        pending.pageCount = stop - pending.firstPage;
        continue;
      }
      if (pending !== null) yield pending;
      pending = { firstPage: first, pageCount: stop - first };
    }
    if (pending !== null) yield pending;
  }

  /**
   * Gives the pages' memory back to the host (FALLOC_FL_PUNCH_HOLE, or MADV_DONTNEED for anonymous memory); they read as zero
   * afterwards, through every mapping. Not seen by `PagemapTracker`.
   *
   * @returns false, and nothing is discarded, while pages of the range are pinned (`pin`), or while the kernel has memory of
   * this process pinned for somebody who has not said what (io_uring's fixed buffers): VmPin in /proc/self/status
   * @throws GodwitError GODWIT_UNSUPPORTED when the block was attached by address alone
   */
  discard(range: PageRun): boolean {
    this.#checkRange(range);
    if (range.pageCount === 0) return true;
    const [offset, byteLength] = [range.firstPage * this.#pageSize, range.pageCount * this.#pageSize];
    const punch = this.#puncher(offset, byteLength);
    if (pinnedBytes() > 0) return false;
    return unlessPinnedElsewhere(this, offset, byteLength, () => this.#pins.unlessPinned(offset, byteLength, punch));
  }

  /** Bytes that the host has given to this block so far; 0 where it was attached by address alone, and after `close`. */
  allocatedBytes(): number {
    // st_blocks is in units of 512 bytes: stat(2).
    if (this.fd !== null) return fstatSync(this.fd).blocks * 512;
    if (!this.anonymous || this.#closed) return 0;
    let bytes = 0;
    for (const { start, end } of this.#extents(0, this.byteLength)) bytes += end - start;
    return bytes;
  }

  /**
   * The memory file, for ordinary pages: reserved huge pages cannot be written with system calls, and written so, transparent ones would
   * come as small ones.
   */
  memoryFile(): MemoryFile | undefined {
    if (this.#closed || !this.#writable) return undefined;
    return { fd: this.#file(), position: this.fileOffset };
  }

  /** Somebody holds these pages by their physical memory until the returned function is called; see `pinHostMemory`. */
  pin(range: PageRun): () => void {
    this.#checkRange(range);
    return this.pinBytes(range.firstPage * this.#pageSize, range.pageCount * this.#pageSize);
  }

  /** Whether any page of the block is pinned (`pin`, `pinHostMemory`), in any thread. */
  get pinned(): boolean {
    return this.#pins.isPinned(0, this.byteLength);
  }

  /** Bytes of a page of the memory file: those of the host, or of its reserved huge pages. Undefined without a file. */
  get filePageSize(): number | undefined {
    if (this.#backing.fd === null || this.#closed) return undefined;
    // hugetlbfs tells the size of its pages as the preferred size of a block.
    return Math.max(HOST_PAGE_SIZE, fstatSync(this.#file()).blksize);
  }

  /** Calls `discard` unless one of these bytes is pinned through this block, and says whether it did. */
  unlessPinned(offset: number, byteLength: number, discard: () => boolean): boolean {
    let discarded = false;
    const asked = this.#pins.unlessPinned(offset, byteLength, () => {
      discarded = discard();
    });
    return asked && discarded;
  }

  /** The same for bytes. */
  pinBytes(offset: number, byteLength: number): () => void {
    return this.#pins.pin(offset, byteLength);
  }

  /**
   * Lets go of the mapping and the file. Every view of the block must be out of use by now, in every thread: touching
   * one afterwards ends the process with SIGSEGV. Idempotent.
   *
   * @throws GodwitError GODWIT_CLAIMED while a migration uses the block: nothing was closed
   */
  close(): void {
    if (this.#closed) return;
    assertMayChange(this, `unmap RAM block "${this.id}"`);
    this.#closed = true;
    blockClosed(this);
    this.#spans.fill(undefined);
    const { reservation, ownsFd, fd } = this.#backing;
    if (reservation !== undefined) munmap(reservation.address, reservation.byteLength);
    if (ownsFd && fd !== null) closeFd(fd);
  }

  /** The parts with contents between two offsets in the memory file; of anonymous memory, in the block. */
  #extents(from: number, limit: number): Iterable<{ readonly start: number; readonly end: number }> {
    if (this.anonymous) return anonymousExtents(this.hostAddress, from, limit, () => this.requireOpen());
    // Where the file's first byte would be mapped.
    return dataExtents(() => this.#file(), this.hostAddress - BigInt(this.fileOffset), from, limit);
  }

  #puncher(offset: number, byteLength: number): () => void {
    const address = this.hostAddress + BigInt(offset);
    if (this.anonymous) return () => madvise(address, byteLength, MemoryAdvice.MADV_DONTNEED);
    const fd = this.#file();
    return () => punchHole(fd, this.fileOffset + offset, byteLength);
  }

  #span(index: number): Uint8Array {
    const made = this.#spans[index];
    if (made !== undefined) return made;
    const start = index * SPAN_BYTES;
    const span = viewOf(this.hostAddress + BigInt(start), Math.min(SPAN_BYTES, this.byteLength - start));
    this.#spans[index] = span;
    return span;
  }

  #checkRange(range: PageRun): { end: number } {
    this.requireOpen();
    const { firstPage, pageCount } = range;
    const end = firstPage + pageCount;
    const pages = this.byteLength / this.#pageSize;
    if (
      Number.isInteger(firstPage) &&
      Number.isInteger(pageCount) &&
      firstPage >= 0 &&
      pageCount >= 0 &&
      end <= pages
    ) {
      return { end };
    }
    throw new GodwitError(
      'GODWIT_OUT_OF_RANGE',
      `pages ${firstPage}..${end} are outside RAM block ${this.id} of ${pages} pages`,
    );
  }

  /**
   * The memory file's descriptor, for one use. A walk through `populated` may take hours, in which this block, or the owner that it was
   * attached from, may close the descriptor; its number may then be that of another file.
   */
  #file(): number {
    this.requireOpen();
    const { fd, ownsFd } = this.#backing;
    if (fd === null) {
      throw new GodwitError('GODWIT_UNSUPPORTED', `RAM block ${this.id} was attached without its memory file`);
    }
    if (ownsFd || `${fileIdentity(fd)}+${this.fileOffset}` === this.#identity) return fd;
    throw new GodwitError(
      'GODWIT_INVALID_STATE',
      `file descriptor ${fd} is not the memory file of RAM block ${this.id} any more: its owner has closed it`,
    );
  }

  /** Throws GODWIT_INVALID_STATE once it is closed. */
  requireOpen(): void {
    if (this.#closed) throw new GodwitError('GODWIT_INVALID_STATE', `RAM block ${this.id} is closed`);
  }
}

/** hugetlbfs tells the size of its pages as the preferred size of a block. */
function hasOrdinaryPages(fd: number): boolean {
  return fstatSync(fd).blksize <= HOST_PAGE_SIZE;
}
