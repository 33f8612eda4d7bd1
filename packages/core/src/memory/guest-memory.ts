import type { PageRun } from './page-run.js';

/**
 * A view of guest memory never crosses a multiple of this many bytes, counted from the start of its block: embedders
 * map each window once and answer `view` with a `subarray` of it. 1 GiB, because Node 20 aborts on an external
 * ArrayBuffer beyond 4 GiB and V8 counts each view as external memory for its lifetime.
 */
export const RAM_WINDOW_BYTES = 2 ** 30;

/** A contiguous range of guest-physical memory backed by one mapping on the host (QEMU: RAMBlock). */
export interface RamBlock {
  /** Stable name; the destination finds its own block by it. */
  readonly id: string;
  readonly guestPhysicalAddress: number;
  /** A multiple of the page size. */
  readonly byteLength: number;
  /**
   * Names the memory behind the block, so that two objects over the same memory are known to be one: the host's boot id, the
   * file's device and inode, and the offset in it, say. Two blocks with an equal identity are the same memory. Undefined where
   * nobody else can map it, and once it is unmapped. At most 255 characters.
   */
  readonly identity?: string | undefined;
  /**
   * Shared memory, never a copy: what the guest writes is seen, and writing it writes the guest's memory.
   * The engine never asks for a range that crosses a multiple of `RAM_WINDOW_BYTES`.
   */
  view(offset: number, length: number): Uint8Array;
  /**
   * The pages that have memory behind them, in ascending order; all others are holes that read as zero. The engine
   * never touches a hole, on either side, so that a sparse guest stays sparse; the exception is a lone page that a
   * tracker reports and that was given back since. Without this method every page is populated.
   * Only runs that meet `range` (clipped to it) are listed.
   *
   * A page that becomes a hole while a migration runs (a balloon) has been written: a tracker must report it.
   */
  populated?(range?: PageRun): Iterable<PageRun>;
  /**
   * Turns pages into holes: they read as zero afterwards and their memory goes back to the host. Only the destination
   * calls it, for pages that have become zero. Without it the engine writes zeros.
   */
  discard?(range: PageRun): void;
}

/** All memory of a guest. Blocks do not overlap, and each has a name of its own. */
export interface GuestMemory {
  /** Bytes, a power of two from 256 to 16 Mi, the granularity of dirty tracking. */
  readonly pageSize: number;
  readonly blocks: readonly RamBlock[];
}

/** Number of pages in a block. */
export function pagesOf(memory: GuestMemory, block: RamBlock): number {
  return block.byteLength / memory.pageSize;
}

/** Yields the populated runs of a block, or the whole range where the block cannot tell. */
export function populatedRuns(block: RamBlock, range: PageRun): Iterable<PageRun> {
  return block.populated?.(range) ?? [range];
}
