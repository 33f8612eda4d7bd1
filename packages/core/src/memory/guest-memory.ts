import type { PageRun } from './page-run.js';

/**
 * Size of a memory window, in bytes: a view of guest memory never crosses a multiple of it, counted from the start of its block, so that
 * an embedder can map each window once and return a `subarray` of it from `view`. It is 1 GiB, since Node 20 aborts on an external
 * ArrayBuffer beyond 4 GiB, and V8 counts each view as external memory for its lifetime.
 */
export const RAM_WINDOW_BYTES = 2 ** 30;

/** A file whose bytes are a block's memory. */
export interface MemoryFile {
  readonly fd: number;
  /** The offset of the block's first page in the file, in bytes. */
  readonly position: number;
}

/** A contiguous range of guest-physical memory backed by one mapping on the host (QEMU: RAMBlock). */
export interface RamBlock {
  /** Stable name, equal on both sides. */
  readonly id: string;
  readonly guestPhysicalAddress: number;
  /** A multiple of the page size. */
  readonly byteLength: number;
  /**
   * Names the memory behind the block, by which two objects over the same memory are recognised: for example the host's boot id and the
   * file's device and inode, then `+` and the offset of the block in the file, in bytes. Two blocks of one file have memory in common if
   * their ranges overlap; without a `+` and digits at the end the identity names the whole file. Undefined for memory that no other
   * process can map, and after the memory was unmapped. At most 255 characters.
   */
  readonly identity?: string | undefined;
  /**
   * Source and destination map the same memory for this block: a local move, such as the upgrade of a running VMM (QEMU:
   * `x-ignore-shared`). The owners at both ends say so, and the `identity` and length of both blocks must be equal, else the migration is
   * refused with `GODWIT_SHARED_MEMORY`. Its pages are not sent, tracked, verified or touched by the engine on either side. Until `go`
   * the source may resume; after `go` the source refuses `recover` and `reclaim`, since the destination's guest may have written this
   * memory. What a device's `load` writes there is seen by the source's guest if it runs on. A VM with such a block cannot be saved to a
   * snapshot.
   *
   * @example
   * // source: start the new VMM with a descriptor of the guest's memory file, and say that both have it
   * const memory = attachGuestMemory({ blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength, fd, shared: true }] });
   */
  readonly shared?: true | undefined;
  /**
   * The guest cannot write this block: ROM, firmware. Both ends must agree on it, else the migration is refused with
   * `GODWIT_MEMORY_MISMATCH`. It is sent in round 1 like any other block, so the destination's `view` must be writable for the VMM. When
   * a tracker reports a page of the block nevertheless (the VMM has changed its ROM), the page is sent again and a warning is emitted
   * once.
   */
  readonly readOnly?: true | undefined;
  /**
   * Returns the guest's own memory, never a copy: the guest's writes are seen in it, and writing to it writes guest memory. `offset` and
   * `length` are in bytes, from the start of the block. The engine never asks for a range that crosses a multiple of
   * `RAM_WINDOW_BYTES`.
   */
  view(offset: number, length: number): Uint8Array;
  /**
   * Lists the populated pages of `range` (default: the block), in ascending order and clipped to it; all others are holes, which read as
   * zero. The engine does not touch holes on either side, so that a sparse guest stays sparse: at the source it calls this method for
   * each batch just before it reads the batch. Without this method every page counts as populated.
   *
   * A page that becomes a hole during a migration (a balloon) counts as written: a tracker must report it.
   */
  populated?(range?: PageRun): Iterable<PageRun>;
  /**
   * Turns pages into holes: they read as zero afterwards, and their memory goes back to the host. Called only at the destination, for
   * pages that have become zero. Without this method the engine writes zeros.
   *
   * @returns false when pages of the range are pinned: nothing was discarded, and the engine writes zeros
   */
  discard?(range: PageRun): boolean;
  /**
   * The file behind the block, if pages may be written to it with system calls (`write`, `splice`); `undefined` if they may not. The
   * destination writes pages there that nothing has touched: such a page is then neither faulted in nor zeroed first, which would take
   * longer than its copy. Called for each frame, and the result is used for that frame only.
   */
  memoryFile?(): MemoryFile | undefined;
  /**
   * Notes that these pages are used by their physical addresses until the returned function is called, as memory mapped for a device's
   * DMA and io_uring's fixed buffers are. `discard` refuses the pages meanwhile, since their user would go on writing physical pages that
   * are no longer the guest's. The code that pins pages calls this before it pins them.
   */
  pin?(range: PageRun): () => void;
}

/** All memory of a guest. Its blocks do not overlap and have different names. */
export interface GuestMemory {
  /** The granularity of dirty tracking, in bytes: a power of two from 256 to 16 Mi. */
  readonly pageSize: number;
  readonly blocks: readonly RamBlock[];
  /**
   * Resolves when these bytes are there: after post-copy, or a restore that runs at once, pages come while the guest already runs. A
   * thread that touches a missing page sleeps until it has come, which an event loop must not: a device model on an event loop awaits
   * this method before it touches guest memory. At any other time it resolves at once. Rejects with `GODWIT_PAGES_MISSING` for pages that
   * cannot be had.
   */
  present?(block: number, offset: number, byteLength: number): Promise<void>;
}

/** Whether any block of `memory` is shared with the other side of the migration; see `RamBlock.shared`. */
export function hasSharedBlocks({ blocks }: GuestMemory): boolean {
  return blocks.some(({ shared }) => shared === true);
}

/**
 * Number of pages in a block.
 *
 * @example
 * const pages = memory.blocks.reduce((sum, block) => sum + pagesOf(memory, block), 0);
 */
export function pagesOf(memory: GuestMemory, block: RamBlock): number {
  return block.byteLength / memory.pageSize;
}

/**
 * The populated runs of a range, or the whole range for a block without `populated`.
 *
 * @example
 * for (const { firstPage, pageCount } of populatedRuns(block, { firstPage: 0, pageCount: 1024 })) read(firstPage, pageCount);
 */
export function populatedRuns(block: RamBlock, range: PageRun): Iterable<PageRun> {
  return block.populated?.(range) ?? [range];
}
