import { setImmediate } from 'node:timers/promises';
import { type DirtyBitmap, type DirtyBitmaps, type DirtyTracker, GodwitError, WriteMarks } from '@godwit/core';
import { PAGE_REGION, PagemapScan, PM_SCAN_ARG } from '../layouts/pagemap-scan.js';
import { StructBuffer } from '../layouts/struct-buffer.js';
import { addressOf, closeFd, HOST_PAGE_SIZE, ioctl, OpenFlags, openFile } from '../libc/index.js';
import type { MappedGuestMemory } from '../memory/mapped-guest-memory.js';
import { SharedUserfaultfd } from '../userfaultfd/shared-userfaultfd.js';
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

/** Options of a `PagemapTracker`. */
export interface PagemapTrackerOptions {
  readonly ranges: readonly TrackedRange[];
  /** Bytes per page of the bitmaps. Default: the host's page size; else a multiple of it. */
  readonly pageSize?: number;
}

/**
 * Address ranges per system call. A scan takes 0.5 ms (nothing dirty) to 4.3 ms (all of it) per GiB, the first write
 * protection 8 to 12 ms: either way a call is done in about a millisecond, and the event loop turns between them.
 */
const SCAN_BYTES = 2 ** 28;
const ARM_BYTES = 2 ** 26;
/** Room for this many runs of written pages per call; with more, the kernel stops and is called again. */
const REGIONS = 4096;

/**
 * Sees every write that goes through this process's own mapping of guest memory, whoever makes it: JavaScript, system
 * calls into it (`read`, `recv`), other threads, KVM's vCPUs. Asynchronous write protection by userfaultfd notes the
 * first write to a page in the page table, PAGEMAP_SCAN reads and re-protects in one atomic step (both Linux 6.7).
 *
 * A harvest is exact: no write is lost, and only written pages are reported. Pages are write-protected in page tables,
 * holes included, so that `start` on a sparse guest allocates page tables for all of it (2 MiB per GiB). The first
 * write to a page after each harvest takes a fault of about a microsecond.
 *
 * A system call that has taken hold of a page's memory before the page was re-armed, and writes after it, takes no fault: a
 * read with O_DIRECT, io_uring's reads and receives, vhost. A device model that makes such calls marks what they have written:
 *
 * ```ts
 * const { bytesRead } = await disk.read(ram.view(offset, length), 0, length, position); // a file that was opened with O_DIRECT
 * tracker.mark(0, offset, bytesRead);
 * ```
 *
 * Its `pause` resolves when none is in flight any more, and all are marked.
 *
 * @example
 * const trackers = [PagemapTracker.forMemory(memory)];
 */
export class PagemapTracker implements DirtyTracker {
  readonly name = 'pagemap';
  readonly blindSpots =
    'writes that bypass this mapping: through another mapping or pwrite of the memory file, by another process, by ' +
    'DMA of assigned devices, and holes punched into the file; and those in flight through pages that the kernel holds: ' +
    'reads with O_DIRECT, io_uring, vhost. Whoever makes them calls mark() once they are done';
  readonly #ranges: readonly TrackedRange[];
  readonly #pageSize: number;
  readonly #regions = new Uint32Array((REGIONS * PAGE_REGION.size) / 4);
  readonly #argument: StructBuffer<keyof typeof PM_SCAN_ARG.fields>;
  readonly #pageCounts: readonly number[];
  #marks: WriteMarks | undefined;
  #active: { readonly ranges: SharedUserfaultfd; readonly pagemap: number } | null = null;
  #busy = false;

  /** Tracks all blocks of a guest's memory through the mappings that it has. */
  static forMemory(memory: MappedGuestMemory): PagemapTracker {
    const ranges = memory.blocks.map(({ hostAddress, byteLength }, blockIndex) => ({
      address: hostAddress,
      byteLength,
      blockIndex,
      firstPage: 0,
    }));
    return new PagemapTracker({ ranges, pageSize: memory.pageSize });
  }

  constructor(options: PagemapTrackerOptions) {
    this.#pageSize = options.pageSize ?? HOST_PAGE_SIZE;
    if (!Number.isSafeInteger(this.#pageSize / HOST_PAGE_SIZE) || this.#pageSize <= 0) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        `pages of ${this.#pageSize} bytes are no multiple of the host's ${HOST_PAGE_SIZE}`,
      );
    }
    for (const { address, byteLength } of options.ranges) {
      const aligned = address % BigInt(HOST_PAGE_SIZE) === 0n && Number.isSafeInteger(byteLength / HOST_PAGE_SIZE);
      if (aligned && byteLength > 0) continue;
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        `${byteLength} bytes at 0x${address.toString(16)} are no whole pages of ${HOST_PAGE_SIZE} bytes`,
      );
    }
    this.#ranges = options.ranges;
    const pageCounts: number[] = [];
    for (const { blockIndex, firstPage, byteLength } of options.ranges) {
      const end = firstPage + Math.ceil(byteLength / this.#pageSize);
      pageCounts[blockIndex] = Math.max(pageCounts[blockIndex] ?? 0, end);
    }
    this.#pageCounts = Array.from(pageCounts, (count) => count ?? 0);
    this.#argument = new StructBuffer(PM_SCAN_ARG)
      .set('size', PM_SCAN_ARG.size)
      .set('flags', PagemapScan.PM_SCAN_WP_MATCHING | PagemapScan.PM_SCAN_CHECK_WPASYNC)
      .set('category_mask', PagemapScan.PAGE_IS_WRITTEN)
      .set('return_mask', PagemapScan.PAGE_IS_WRITTEN);
  }

  /** For device models in other threads: its `storage` goes there. */
  get marks(): WriteMarks {
    this.#marks ??= new WriteMarks({ pageSize: this.#pageSize, pageCounts: this.#pageCounts });
    return this.#marks;
  }

  /**
   * `length` bytes at `offset` of a block were written in a way that this tracker does not see (`blindSpots`). To be called once
   * they are in guest memory.
   */
  mark(blockIndex: number, offset: number, length: number): void {
    if (this.#active !== null) this.marks.mark(blockIndex, offset, length);
  }

  /**
   * Registers and write-protects all ranges. Takes 8 to 12 ms per GiB.
   *
   * @throws GodwitError GODWIT_UNSUPPORTED or GODWIT_PERMISSION (see `SharedUserfaultfd.join`), GODWIT_TRACKER_FAILED when a
   * range cannot be registered (not mapped, tracked already, or another userfaultfd has it)
   */
  async start(): Promise<void> {
    if (this.#active !== null) throw new GodwitError('GODWIT_INVALID_STATE', 'the pagemap tracker runs already');
    const ranges = this.#join();
    try {
      const pagemap = openFile('/proc/self/pagemap', OpenFlags.O_RDONLY);
      this.#active = { ranges, pagemap };
      // Without a vector the kernel only protects.
      this.#argument.set('vec', 0).set('vec_len', 0);
      await this.#exclusively(ARM_BYTES, null);
      this.marks.begin();
    } catch (error) {
      ranges.leave();
      await this.stop();
      throw trackerFailed(this.name, 'start', error);
    }
  }

  #join(): SharedUserfaultfd {
    try {
      return SharedUserfaultfd.join(this.#ranges, 'asynchronous');
    } catch (error) {
      // What the host lacks has its own code.
      if (GodwitError.is(error) && (error.code === 'GODWIT_UNSUPPORTED' || error.code === 'GODWIT_PERMISSION'))
        throw error;
      throw trackerFailed(this.name, 'start', error);
    }
  }

  async harvest(into: DirtyBitmaps): Promise<void> {
    try {
      this.#argument.set('vec', addressOf(this.#regions)).set('vec_len', REGIONS);
      await this.#exclusively(SCAN_BYTES, into);
      this.marks.harvest(into);
    } catch (error) {
      if (GodwitError.is(error) && error.code === 'GODWIT_INVALID_STATE') throw error;
      throw trackerFailed(this.name, 'harvest', error);
    }
  }

  async stop(): Promise<void> {
    const active = this.#active;
    if (active === null) return;
    this.#active = null;
    this.#marks?.end();
    // The protection goes with the registration, or with the descriptor when nobody else uses it.
    active.ranges.leave();
    closeFd(active.pagemap);
  }

  async #exclusively(chunkBytes: number, into: DirtyBitmaps | null): Promise<void> {
    if (this.#busy) throw new GodwitError('GODWIT_INVALID_STATE', 'a harvest of the pagemap tracker is under way');
    this.#busy = true;
    const pause = new EventLoopPause();
    try {
      for (const range of this.#ranges) {
        for (let offset = 0; offset < range.byteLength; offset += chunkBytes) {
          if (this.#active === null) throw new GodwitError('GODWIT_INVALID_STATE', 'the pagemap tracker does not run');
          const length = Math.min(chunkBytes, range.byteLength - offset);
          this.#scan(this.#active.pagemap, range, offset, length, into?.at(range.blockIndex) ?? null);
          await pause.ifDue();
        }
      }
    } finally {
      this.#busy = false;
    }
  }

  /** Reads and re-protects `length` bytes of a range. It is done when the walk has reached the end, not before. */
  #scan(pagemap: number, range: TrackedRange, offset: number, length: number, into: DirtyBitmap | null): void {
    const argument = this.#argument;
    // Addresses are below 2^53: exact as numbers.
    const base = Number(range.address);
    const end = base + offset + length;
    for (let at = base + offset; at < end; ) {
      argument.set('start', at).set('end', end);
      const found = ioctl(pagemap, PagemapScan.PAGEMAP_SCAN, argument.bytes, 'PAGEMAP_SCAN');
      if (into !== null) this.#report(found, base, range.firstPage, into);
      const reached = argument.get('walk_end');
      if (reached <= at && found === 0) {
        throw new GodwitError('GODWIT_INTERNAL', `PAGEMAP_SCAN makes no progress at 0x${at.toString(16)}`);
      }
      at = reached;
    }
  }

  #report(found: number, base: number, firstPage: number, into: DirtyBitmap): void {
    const regions = this.#regions;
    const words = PAGE_REGION.size / 4;
    for (let i = 0; i < found * words; i += words) {
      const start = (regions[i + 1] as number) * 2 ** 32 + (regions[i] as number) - base;
      const end = (regions[i + 3] as number) * 2 ** 32 + (regions[i + 2] as number) - base;
      const first = Math.floor(start / this.#pageSize);
      into.setRange(firstPage + first, Math.ceil(end / this.#pageSize) - first);
    }
  }
}

/** Continuous work after which timers and I/O get their turn, in milliseconds. */
const LONGEST_TURN_MS = 1;

/** Lets the event loop turn when a job has kept it for `LONGEST_TURN_MS`. */
class EventLoopPause {
  #since = performance.now();

  /** Call it between two steps of the job. */
  async ifDue(): Promise<void> {
    if (performance.now() - this.#since < LONGEST_TURN_MS) return;
    await setImmediate();
    this.#since = performance.now();
  }
}
