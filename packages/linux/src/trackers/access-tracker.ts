import { type DirtyBitmaps, GodwitError } from '@godwit/core';
import { PagemapScan } from '../layouts/pagemap-scan.js';
import { closeFd, OpenFlags, openFile } from '../libc/index.js';
import type { MappedGuestMemory } from '../memory/mapped-guest-memory.js';
import type { SharedUserfaultfd } from '../userfaultfd/shared-userfaultfd.js';
import {
  bitmapOf,
  joinRanges,
  type PagemapTrackerOptions,
  PagemapWalk,
  rangesOf,
  type TrackedRange,
} from './pagemap-walk.js';
import { trackerFailed } from './tracker-error.js';

/** Bytes of address space that one step reads and protects, in about a millisecond; the event loop runs between steps. */
const STEP_BYTES = 2 ** 26;

/**
 * Reports which pages of guest memory are read or written through this process's own mapping, by KVM's vCPUs, JavaScript or system calls.
 * This is a guest's working set, which gives an order in which to send or load pages (the hottest first), and the memory that the guest
 * needs. Read-write protection by userfaultfd (RWP, Linux 7.3) notes the first access to a page in the page table; PAGEMAP_SCAN reads it.
 *
 * **It is no dirty log, and no `DirtyTracker`.** A sample reads and then protects again, in two system calls: an access between them is not
 * seen, and neither is one through pages that the kernel holds already (vhost, io_uring, reads with O_DIRECT). A page that is not seen only
 * gets another place in an order, while a dirty log that misses a page loses it. Writes are not distinguished from reads.
 *
 * The kernel has one bit of a page table entry for RWP and for the write protection of a `PagemapTracker`: only one of the two can have a
 * range. KVM's dirty log and rings can be used together with this class.
 *
 * A huge page, reserved or transparent, is one page here: a sample reports all of it.
 *
 * The first access to a page after each sample takes a fault of about a microsecond. Pages that are not mapped yet are not protected: a
 * sample reports them once they are mapped. Pages that become holes, by `discard` or otherwise, lose their protection.
 *
 * @example
 * const accesses = AccessTracker.forMemory(memory);
 * await accesses.start();
 * const hot = new DirtyBitmaps(memory);
 * await setTimeout(100);
 * await accesses.sample(hot); // what was read or written in these 100 ms
 * await accesses.stop();
 */
export class AccessTracker {
  readonly name = 'accesses';
  readonly #walk: PagemapWalk;
  #active: { readonly ranges: SharedUserfaultfd; readonly pagemap: number } | null = null;

  /** Watches all blocks of a guest's memory through the mappings that it has. */
  static forMemory(memory: MappedGuestMemory): AccessTracker {
    return new AccessTracker(rangesOf(memory));
  }

  /** @throws GodwitError GODWIT_INVALID_ARGUMENT for ranges that are no whole pages */
  constructor(options: PagemapTrackerOptions) {
    this.#walk = new PagemapWalk(this.name, options, { flags: 0, category: PagemapScan.PAGE_IS_ACCESSED });
  }

  /**
   * Registers all ranges and protects their mapped pages. Takes 1 to 2 ms per GiB that is mapped.
   *
   * @throws GodwitError GODWIT_UNSUPPORTED where the kernel has no RWP, or where a `PagemapTracker` has the range; GODWIT_PERMISSION (see
   * `SharedUserfaultfd.join`); GODWIT_TRACKER_FAILED when a range cannot be registered (not mapped, or another userfaultfd has it)
   */
  async start(): Promise<void> {
    if (this.#active !== null) throw new GodwitError('GODWIT_INVALID_STATE', 'the access tracker runs already');
    const ranges = joinRanges(this.name, this.#walk.ranges, 'accesses');
    try {
      this.#active = { ranges, pagemap: openFile('/proc/self/pagemap', OpenFlags.O_RDONLY) };
      await this.#walk.eachPiece(STEP_BYTES, (range, offset, length) => this.#protect(range, offset, length));
    } catch (error) {
      ranges.leave();
      await this.stop();
      throw trackerFailed(this.name, 'start', error);
    }
  }

  /**
   * ORs in every page that was read or written since the last sample, or since `start`, and protects them again.
   *
   * @throws GodwitError GODWIT_INVALID_STATE when the tracker is not started, or a sample is under way; GODWIT_TRACKER_FAILED when the
   * kernel refuses
   */
  async sample(into: DirtyBitmaps): Promise<void> {
    try {
      await this.#walk.eachPiece(STEP_BYTES, (range, offset, length) => {
        const { pagemap } = this.#running;
        const runs = this.#walk.scan(pagemap, range, offset, length, bitmapOf(into, range));
        if (runs > 0) this.#protect(range, offset, length);
      });
    } catch (error) {
      if (GodwitError.is(error) && error.code === 'GODWIT_INVALID_STATE') throw error;
      throw trackerFailed(this.name, 'sample', error);
    }
  }

  /** Removes the protection. Idempotent. */
  async stop(): Promise<void> {
    const active = this.#active;
    if (active === null) return;
    this.#active = null;
    active.ranges.leave();
    closeFd(active.pagemap);
  }

  get #running(): { readonly ranges: SharedUserfaultfd; readonly pagemap: number } {
    if (this.#active === null) throw new GodwitError('GODWIT_INVALID_STATE', 'the access tracker does not run');
    return this.#active;
  }

  #protect(range: TrackedRange, offset: number, length: number): void {
    const { uffd } = this.#running.ranges;
    if (uffd.accessProtect(Number(range.address) + offset, length) < length) throw uffd.failure();
  }
}
