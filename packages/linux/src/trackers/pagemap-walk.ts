import { setImmediate } from 'node:timers/promises';
import { type DirtyBitmap, type DirtyBitmaps, GodwitError } from '@godwit/core';
import { PAGE_REGION, PagemapScan, PM_SCAN_ARG } from '../layouts/pagemap-scan.js';
import { StructBuffer } from '../layouts/struct-buffer.js';
import { addressOf, HOST_PAGE_SIZE, ioctl } from '../libc/index.js';
import type { MappedGuestMemory } from '../memory/mapped-guest-memory.js';
import { type RangeUse, SharedUserfaultfd } from '../userfaultfd/shared-userfaultfd.js';
import { trackerFailed } from './tracker-error.js';

/** A piece of this process's address space, and the pages of a RAM block that it holds. */
export interface TrackedRange {
  /** A multiple of the host's page size. */
  readonly address: bigint;
  /** A multiple of the host's page size. */
  readonly byteLength: number;
  readonly blockIndex: number;
  /** The block's page at `address`. */
  readonly firstPage: number;
}

/** Options of a `PagemapTracker` and of an `AccessTracker`. */
export interface PagemapTrackerOptions {
  readonly ranges: readonly TrackedRange[];
  /** Bytes per page of the bitmaps. Default: the host's page size; else a multiple of it. */
  readonly pageSize?: number;
}

/** The flags and the category of linux/fs.h that a walk passes to PAGEMAP_SCAN. */
export interface WalkQuestion {
  readonly flags: number;
  readonly category: number;
}

/** The number of runs of pages per call; if there are more, the kernel stops and is called again. */
const REGIONS = 4096;

/** The mappings of all blocks of a guest's memory. */
export function rangesOf(memory: MappedGuestMemory): PagemapTrackerOptions {
  const ranges = memory.blocks.map(({ hostAddress, byteLength }, blockIndex) => ({
    address: hostAddress,
    byteLength,
    blockIndex,
    firstPage: 0,
  }));
  return { ranges, pageSize: memory.pageSize };
}

/**
 * Walks the page tables of ranges of this process by PAGEMAP_SCAN, piece by piece, and lets the event loop run between the pieces. Only one
 * walk at a time.
 */
export class PagemapWalk {
  readonly ranges: readonly TrackedRange[];
  readonly pageSize: number;
  readonly #tracker: string;
  readonly #regions = new Uint32Array((REGIONS * PAGE_REGION.size) / 4);
  readonly #argument: StructBuffer<keyof typeof PM_SCAN_ARG.fields>;
  #busy = false;

  /**
   * @param tracker the tracker's name, for messages
   * @throws GodwitError GODWIT_INVALID_ARGUMENT for ranges or page sizes that are no whole pages
   */
  constructor(tracker: string, { ranges, pageSize }: PagemapTrackerOptions, { flags, category }: WalkQuestion) {
    this.#tracker = tracker;
    this.pageSize = pageSize ?? HOST_PAGE_SIZE;
    if (!Number.isSafeInteger(this.pageSize / HOST_PAGE_SIZE) || this.pageSize <= 0) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        `pages of ${this.pageSize} bytes are no multiple of the host's ${HOST_PAGE_SIZE}`,
      );
    }
    for (const { address, byteLength } of ranges) {
      const aligned = address % BigInt(HOST_PAGE_SIZE) === 0n && Number.isSafeInteger(byteLength / HOST_PAGE_SIZE);
      if (aligned && byteLength > 0) continue;
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        `${byteLength} bytes at 0x${address.toString(16)} are no whole pages of ${HOST_PAGE_SIZE} bytes`,
      );
    }
    this.ranges = ranges;
    this.#argument = new StructBuffer(PM_SCAN_ARG)
      .set('size', PM_SCAN_ARG.size)
      .set('flags', flags)
      .set('category_mask', category)
      .set('return_mask', category);
  }

  /** The number of pages of each block, as far as the ranges reach. */
  get pageCounts(): readonly number[] {
    const counts: number[] = [];
    for (const { blockIndex, firstPage, byteLength } of this.ranges) {
      const end = firstPage + Math.ceil(byteLength / this.pageSize);
      counts[blockIndex] = Math.max(counts[blockIndex] ?? 0, end);
    }
    return Array.from(counts, (count) => count ?? 0);
  }

  /**
   * Calls `step` for each piece of at most `pieceBytes` of the ranges, in order; the event loop runs in between after each millisecond.
   *
   * @throws GodwitError GODWIT_INVALID_STATE when another walk is under way
   */
  async eachPiece(
    pieceBytes: number,
    step: (range: TrackedRange, offset: number, length: number) => void,
  ): Promise<void> {
    if (this.#busy) {
      throw new GodwitError('GODWIT_INVALID_STATE', `a harvest of the ${this.#tracker} tracker is under way`);
    }
    this.#busy = true;
    const pause = new EventLoopPause();
    try {
      for (const range of this.ranges) {
        for (let offset = 0; offset < range.byteLength; offset += pieceBytes) {
          step(range, offset, Math.min(pieceBytes, range.byteLength - offset));
          await pause.ifDue();
        }
      }
    } finally {
      this.#busy = false;
    }
  }

  /**
   * Reads `length` bytes of a range, and sets the bits of the pages that are found; without a bitmap nothing is reported. The walk has
   * always reached the end when it returns. Returns the runs of pages that were found.
   *
   * @param pagemap a descriptor of /proc/self/pagemap
   */
  scan(pagemap: number, range: TrackedRange, offset: number, length: number, into: DirtyBitmap | null): number {
    const argument = this.#argument;
    // Without a vector the kernel only carries out the flags.
    if (into === null) argument.set('vec', 0).set('vec_len', 0);
    else argument.set('vec', addressOf(this.#regions)).set('vec_len', REGIONS);
    // Addresses are below 2^53: exact as numbers.
    const base = Number(range.address);
    const end = base + offset + length;
    let runs = 0;
    for (let at = base + offset; at < end; ) {
      argument.set('start', at).set('end', end);
      const found = ioctl(pagemap, PagemapScan.PAGEMAP_SCAN, argument.bytes, 'PAGEMAP_SCAN');
      if (into !== null) this.#report(found, base, range.firstPage, into);
      runs += found;
      const reached = argument.get('walk_end');
      if (reached <= at && found === 0) {
        throw new GodwitError('GODWIT_INTERNAL', `PAGEMAP_SCAN makes no progress at 0x${at.toString(16)}`);
      }
      at = reached;
    }
    return runs;
  }

  #report(found: number, base: number, firstPage: number, into: DirtyBitmap): void {
    const regions = this.#regions;
    const words = PAGE_REGION.size / 4;
    for (let i = 0; i < found * words; i += words) {
      const start = (regions[i + 1] as number) * 2 ** 32 + (regions[i] as number) - base;
      const end = (regions[i + 3] as number) * 2 ** 32 + (regions[i + 2] as number) - base;
      const first = Math.floor(start / this.pageSize);
      into.setRange(firstPage + first, Math.ceil(end / this.pageSize) - first);
    }
  }
}

/** The bitmap of a range's block; `null` without bitmaps. */
export function bitmapOf(into: DirtyBitmaps | null, range: TrackedRange): DirtyBitmap | null {
  return into?.at(range.blockIndex) ?? null;
}

/** Continuous work after which timers and I/O get their turn, in milliseconds. */
const LONGEST_TURN_MS = 1;

/** Lets the event loop run when a job has blocked it for `LONGEST_TURN_MS`. */
class EventLoopPause {
  #since = performance.now();

  /** Call it between two steps of the job. */
  async ifDue(): Promise<void> {
    if (performance.now() - this.#since < LONGEST_TURN_MS) return;
    await setImmediate();
    this.#since = performance.now();
  }
}

/** Registers a tracker's ranges. Throws `GODWIT_TRACKER_FAILED`; an error for a feature that the host lacks keeps its code. */
export function joinRanges(tracker: string, ranges: readonly TrackedRange[], use: RangeUse): SharedUserfaultfd {
  try {
    return SharedUserfaultfd.join(ranges, use);
  } catch (error) {
    if (GodwitError.is(error) && (error.code === 'GODWIT_UNSUPPORTED' || error.code === 'GODWIT_PERMISSION'))
      throw error;
    throw trackerFailed(tracker, 'start', error);
  }
}
