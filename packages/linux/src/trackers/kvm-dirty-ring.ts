import { DirtyBitmap, type DirtyBitmaps, type DirtyTracker, GodwitError, type VcpuDirtying } from '@godwit/core';
import type { DirtyRings } from '../kvm/dirty-ring.js';
import { DirtyRingCalls } from '../kvm/dirty-ring-calls.js';
import { KvmDirtyRing } from '../layouts/kvm-dirty-ring.js';
import { ioctl } from '../libc/index.js';
import type { KvmSlot } from './kvm-rearm.js';
import type { SharedBitmap } from './ring/reap-rings.js';
import { Reaping } from './ring/reaping.js';
import { checkSlots, openSlotLog, readSlotLog, reportSlot, type SlotLog } from './slot-log.js';
import { trackerFailed } from './tracker-error.js';

/** Options of a `KvmDirtyRingTracker`. */
export interface KvmDirtyRingOptions {
  /** File descriptor of the VM, which the caller goes on to own. */
  readonly vmFd: number;
  /**
   * File descriptors of all its vCPUs, in any order, which is also that of statistics. The caller owns them, and keeps them open until
   * `stop`.
   */
  readonly vcpuFds: readonly number[];
  /** The result of `enableDirtyRings`, which was called before the vCPUs were made. */
  readonly rings: DirtyRings;
  readonly slots: readonly KvmSlot[];
  /**
   * Turns KVM_MEM_LOG_DIRTY_PAGES of all these slots on or off, with KVM_SET_USER_MEMORY_REGION. The promise must not resolve before the
   * call: KVM write-protects the slots in it.
   */
  readonly setLogging: (on: boolean) => void | Promise<void>;
  /**
   * A ring is reaped between harvests as soon as it has this many entries. A lower limit costs the guest more faults, since a page is
   * write-protected again each time; a higher one costs it exits with a full ring. Default: half a ring.
   */
  readonly softLimit?: number;
}

/**
 * KVM's dirty rings: which pages the guest's vCPUs have written, in a ring for each vCPU. The time of a harvest grows with the number of
 * dirty pages and not with the size of the guest, and the rings show how much each vCPU has written.
 *
 * A thread of its own reaps the rings, between harvests and for them. A harvest has re-armed each page that it reports: the page was
 * write-protected again before the harvest ends, and so before it is read.
 *
 * A VM has one tracker for its whole life, since KVM does not report its place in a ring. vCPUs answer KVM_EXIT_DIRTY_RING_FULL with
 * `DirtyRingCalls.ringFull`.
 *
 * ```ts
 * const rings = vm.enableDirtyRings(); // before the first vCPU
 * const tracker = new KvmDirtyRingTracker({ vmFd: vm.fd, vcpuFds: vcpus.map(({ fd }) => fd), rings, slots, setLogging });
 * worker.postMessage({ calls: tracker.calls.storage }); // to the threads of the vCPUs
 * ```
 */
export class KvmDirtyRingTracker implements DirtyTracker {
  readonly name = 'kvm-ring';
  readonly blindSpots =
    'writes by this process itself (VMM, emulated devices, system calls into guest memory) and DMA by assigned devices';
  /** The calls that the threads of the vCPUs make. */
  readonly calls: DirtyRingCalls;
  readonly softLimit: number;
  readonly #options: KvmDirtyRingOptions;
  readonly #places: Int32Array<SharedArrayBuffer>;
  readonly #collected: Int32Array<SharedArrayBuffer>;
  readonly #shared: readonly (readonly SharedBitmap[])[];
  readonly #sets: readonly (readonly DirtyBitmap[])[];
  /** KVM's bitmaps beside the rings. */
  readonly #logs: readonly SlotLog[];
  #started = false;
  #reaping: Reaping | undefined;
  /** The error by which writes since the last harvest were lost. */
  #lost: Error | undefined;
  #anew: Promise<void> | undefined;
  #harvesting: Promise<void> | undefined;
  #before: { readonly atMs: number; readonly collected: readonly number[]; readonly full: readonly number[] };
  #vcpus: readonly VcpuDirtying[] = [];

  /** @throws GodwitError GODWIT_INVALID_ARGUMENT for impossible slots or an impossible soft limit */
  constructor(options: KvmDirtyRingOptions) {
    checkSlots(options.slots);
    const { entries, withBitmap } = options.rings;
    this.softLimit = options.softLimit ?? entries / 2;
    if (!Number.isInteger(this.softLimit) || this.softLimit < 1 || this.softLimit > entries) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        `the soft limit of a ring of ${entries} entries is 1 to ${entries}, not ${options.softLimit}`,
      );
    }
    this.#options = options;
    const vcpus = options.vcpuFds.length;
    this.calls = new DirtyRingCalls(vcpus);
    this.#places = new Int32Array(new SharedArrayBuffer(vcpus * 4));
    this.#collected = new Int32Array(new SharedArrayBuffer(vcpus * 4));
    this.#shared = [0, 1].map(() => options.slots.map(sharedBitmap));
    this.#sets = this.#shared.map((set) =>
      set.map(({ bits, summary }, i) => new DirtyBitmap((options.slots[i] as KvmSlot).pageCount, bits, summary)),
    );
    this.#logs = withBitmap ? options.slots.map(openSlotLog) : [];
    this.#before = this.#counts();
  }

  /** How each vCPU has dirtied memory between the last two harvests, in the order of `vcpuFds`. */
  vcpus(): readonly VcpuDirtying[] {
    return this.#vcpus;
  }

  /**
   * Pages that each vCPU has logged so far, modulo 2^32, those that wait in its ring included. Their differences suit
   * `MigratableVm.vcpuWrites`. A page counts again when it is written again after it was re-armed, and whenever KVM emulates a write to
   * it.
   */
  logged(): readonly number[] {
    return this.waiting().map((waiting, i) => (Atomics.load(this.#collected, i) + waiting) >>> 0);
  }

  /** Entries that wait in each ring to be reaped. */
  waiting(): readonly number[] {
    const rings = this.#reaping?.rings;
    return this.#options.vcpuFds.map((_, i) => rings?.[i]?.waiting() ?? 0);
  }

  /** @throws GodwitError GODWIT_INVALID_STATE when it is started already, or the VM has no rings; GODWIT_TRACKER_FAILED */
  async start(): Promise<void> {
    if (this.#started) throw new GodwitError('GODWIT_INVALID_STATE', 'the dirty rings are in use already');
    this.#checkRings();
    this.#started = true;
    this.#lost = undefined;
    try {
      await this.#begin();
    } catch (error) {
      await this.stop().catch(() => undefined);
      throw trackerFailed(this.name, 'start', error);
    }
    this.#before = this.#counts();
    this.#vcpus = [];
  }

  /**
   * Makes the thread reap all rings, and takes the pages that it has found since the last harvest. Takes about 0.1 ms, and 20 ns a dirty
   * page on that thread.
   *
   * @throws GodwitError GODWIT_TRACKER_FAILED once after the thread has failed, for example since KVM has overrun a ring: logging was
   * started anew by then, and the next harvest has all writes from now on
   */
  async harvest(into: DirtyBitmaps): Promise<void> {
    if (!this.#started) throw new GodwitError('GODWIT_INVALID_STATE', 'the dirty rings are not in use');
    if (this.#harvesting !== undefined) throw new GodwitError('GODWIT_INVALID_STATE', 'a harvest is under way already');
    const work = this.#harvest(into);
    this.#harvesting = work;
    try {
      await work;
    } finally {
      this.#harvesting = undefined;
    }
  }

  async stop(): Promise<void> {
    if (!this.#started) return;
    this.#started = false;
    await this.#harvesting?.catch(() => undefined);
    await this.#anew;
    try {
      await this.#end();
    } catch (error) {
      throw trackerFailed(this.name, 'stop', error);
    }
  }

  async #harvest(into: DirtyBitmaps): Promise<void> {
    let set: readonly DirtyBitmap[];
    try {
      await this.#anew;
      if (this.#lost !== undefined) throw this.#lost;
      const reaped = await this.#reaping?.reaped();
      if (this.#lost !== undefined) throw this.#lost;
      set = this.#sets[reaped ?? 0] as readonly DirtyBitmap[];
    } catch (error) {
      await this.#anew;
      // The error stays when logging could not be started anew.
      if (this.#reaping !== undefined) this.#lost = undefined;
      throw trackerFailed(this.name, 'reap the rings', error);
    }
    for (const [i, place] of this.#options.slots.entries()) {
      const bitmap = set[i] as DirtyBitmap;
      reportSlot(place, bitmap, into.at(place.blockIndex), true);
      bitmap.clearAll();
    }
    for (const log of this.#logs) {
      readSlotLog(log, this.#options.vmFd, this.name);
      reportSlot(log.place, log.bitmap, into.at(log.place.blockIndex));
    }
    this.#count();
  }

  async #begin(): Promise<void> {
    const { vmFd, vcpuFds, rings, slots, setLogging } = this.#options;
    for (const set of this.#sets) for (const bitmap of set) bitmap.clearAll();
    const data = {
      ...{ vmFd, slots, softLimit: this.softLimit, entries: rings.entries },
      ...{ places: this.#places.buffer, collected: this.#collected.buffer },
      ...{ bitmaps: this.#shared, calls: this.calls.storage },
    };
    this.#reaping = new Reaping(vcpuFds, data, (error) => this.#fail(error));
    await this.#reaping.ready;
    await setLogging(true);
  }

  /** Logging is turned off first: then the rest of the rings is reaped, so that they are empty when logging begins again. */
  async #end(): Promise<void> {
    const reaping = this.#reaping;
    this.#reaping = undefined;
    try {
      await this.#options.setLogging(false);
    } finally {
      await reaping?.end();
    }
  }

  /** Starts logging anew at once and not only at the next harvest, since a vCPU whose ring is full cannot run. */
  #fail(error: Error): void {
    this.#lost ??= error;
    if (!this.#started || this.#anew !== undefined) return;
    this.#anew = this.#beginAnew().finally(() => {
      this.#anew = undefined;
    });
  }

  async #beginAnew(): Promise<void> {
    try {
      await this.#end();
      if (this.#started) await this.#begin();
    } catch (error) {
      this.#lost = error instanceof Error ? error : new Error(String(error));
      await this.#end().catch(() => undefined);
    }
  }

  /** Checks that KVM has the rings: a ring that does not exist would be mapped nevertheless, and end this process when it is touched. */
  #checkRings(): void {
    try {
      ioctl(this.#options.vmFd, KvmDirtyRing.KVM_RESET_DIRTY_RINGS, 0, 'KVM_RESET_DIRTY_RINGS');
    } catch (cause) {
      throw new GodwitError(
        'GODWIT_INVALID_STATE',
        'this VM has no dirty rings: call `enableDirtyRings` before its first vCPU is made, or track it with KvmDirtyLogTracker',
        { cause },
      );
    }
  }

  #counts(): { readonly atMs: number; readonly collected: readonly number[]; readonly full: readonly number[] } {
    const collected = Array.from(this.#collected, (_, i) => Atomics.load(this.#collected, i));
    return { atMs: performance.now(), collected, full: this.calls.fullExits() };
  }

  #count(): void {
    const { atMs, collected, full } = this.#before;
    const now = this.#counts();
    this.#before = now;
    const seconds = Math.max(now.atMs - atMs, 0.001) / 1000;
    this.#vcpus = now.collected.map((count, i) => ({
      dirtyPagesPerSecond: ((count - (collected[i] as number)) >>> 0) / seconds,
      ringFull: ((now.full[i] as number) - (full[i] as number)) >>> 0,
    }));
  }
}

function sharedBitmap({ pageCount }: KvmSlot): SharedBitmap {
  return {
    bits: new SharedArrayBuffer(DirtyBitmap.storageBytes(pageCount)),
    summary: new SharedArrayBuffer(DirtyBitmap.summaryBytes(pageCount)),
  };
}
