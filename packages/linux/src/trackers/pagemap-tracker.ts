import { type DirtyBitmaps, type DirtyTracker, GodwitError, WriteMarks } from '@godwit/core';
import { PagemapScan } from '../layouts/pagemap-scan.js';
import { closeFd, OpenFlags, openFile } from '../libc/index.js';
import type { MappedGuestMemory } from '../memory/mapped-guest-memory.js';
import type { SharedUserfaultfd } from '../userfaultfd/shared-userfaultfd.js';
import { bitmapOf, joinRanges, type PagemapTrackerOptions, PagemapWalk, rangesOf } from './pagemap-walk.js';
import { trackerFailed } from './tracker-error.js';

/**
 * Address ranges per system call. A scan takes 0.5 ms (nothing dirty) to 4.3 ms (all of it) per GiB, the first write protection
 * 8 to 12 ms: in both cases a call takes about a millisecond, and the event loop runs between calls.
 */
const SCAN_BYTES = 2 ** 28;
const ARM_BYTES = 2 ** 26;

/**
 * Sees every write through this process's own mapping of guest memory, by JavaScript, system calls (`read`, `recv`), other
 * threads or KVM's vCPUs. Asynchronous write protection by userfaultfd notes the first write to a page in the page table, and
 * PAGEMAP_SCAN reads and re-protects in one atomic step (both Linux 6.7).
 *
 * A harvest is exact: no write is lost, and only written pages are reported. Pages are write-protected in page tables,
 * holes included, so that `start` on a sparse guest allocates page tables for all of it (2 MiB per GiB). The first
 * write to a page after each harvest takes a fault of about a microsecond.
 *
 * A system call that has pinned a page's memory before the page was re-armed, and writes after that, takes no fault: a read with
 * O_DIRECT, io_uring's reads and receives, vhost. A device model that makes such calls marks the bytes that they have written:
 *
 * ```ts
 * const { bytesRead } = await disk.read(ram.view(offset, length), 0, length, position); // a file that was opened with O_DIRECT
 * tracker.mark(0, offset, bytesRead);
 * ```
 *
 * Its `pause` resolves when no such call is in flight any more, and all are marked.
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
  readonly #walk: PagemapWalk;
  #marks: WriteMarks | undefined;
  #active: { readonly ranges: SharedUserfaultfd; readonly pagemap: number } | null = null;

  /** Tracks all blocks of a guest's memory through the mappings that it has. */
  static forMemory(memory: MappedGuestMemory): PagemapTracker {
    return new PagemapTracker(rangesOf(memory));
  }

  constructor(options: PagemapTrackerOptions) {
    this.#walk = new PagemapWalk(this.name, options, {
      flags: PagemapScan.PM_SCAN_WP_MATCHING | PagemapScan.PM_SCAN_CHECK_WPASYNC,
      category: PagemapScan.PAGE_IS_WRITTEN,
    });
  }

  /** The marks, whose `storage` is passed to device models in other threads. */
  get marks(): WriteMarks {
    this.#marks ??= new WriteMarks(this.#walk);
    return this.#marks;
  }

  /**
   * Marks `length` bytes at `offset` of a block, which were written in a way that this tracker does not see (`blindSpots`). To
   * be called once they are in guest memory.
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
    const ranges = joinRanges(this.name, this.#walk.ranges, 'asynchronous');
    try {
      const pagemap = openFile('/proc/self/pagemap', OpenFlags.O_RDONLY);
      this.#active = { ranges, pagemap };
      await this.#read(ARM_BYTES, null);
      this.marks.begin();
    } catch (error) {
      ranges.leave();
      await this.stop();
      throw trackerFailed(this.name, 'start', error);
    }
  }

  async harvest(into: DirtyBitmaps): Promise<void> {
    try {
      await this.#read(SCAN_BYTES, into);
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
    // The protection ends with the registration, or with the descriptor when it has no other user.
    active.ranges.leave();
    closeFd(active.pagemap);
  }

  /** Reads and re-protects all ranges in one atomic step for each page. */
  #read(pieceBytes: number, into: DirtyBitmaps | null): Promise<void> {
    return this.#walk.eachPiece(pieceBytes, (range, offset, length) => {
      if (this.#active === null) throw new GodwitError('GODWIT_INVALID_STATE', 'the pagemap tracker does not run');
      this.#walk.scan(this.#active.pagemap, range, offset, length, bitmapOf(into, range));
    });
  }
}
