import { DirtyBitmap, type DirtyBitmaps, type DirtyTracker, GodwitError } from '@godwit/core';
import { KVM_CLEAR_DIRTY_LOG, KVM_DIRTY_LOG, KVM_ENABLE_CAP, KvmDirtyLog as Kvm } from '../layouts/kvm-dirty-log.js';
import { StructBuffer } from '../layouts/struct-buffer.js';
import { addressOf, ioctl, tryIoctl } from '../libc/index.js';
import { trackerFailed } from './tracker-error.js';

/** A KVM memory slot, and the pages of a RAM block that it shows to the guest. Pages are the host's (4 KiB on x86). */
export interface KvmSlot {
  /** The number given to KVM_SET_USER_MEMORY_REGION. */
  readonly slot: number;
  readonly blockIndex: number;
  /** First page of the block that the slot maps. */
  readonly firstPage: number;
  readonly pageCount: number;
}

/**
 * - `manual`: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2. A harvest only reads; pages are write-protected again by `rearm`, just
 *   before they are read. Both are cheaper, and a page written twice before it is sent is sent once.
 * - `get-and-clear`: every harvest write-protects what it reports. For kernels before 5.0.
 */
export type KvmDirtyLogMode = 'manual' | 'get-and-clear';

export interface KvmDirtyLogOptions {
  /** File descriptor of the VM (KVM_CREATE_VM). Stays the caller's. */
  readonly vmFd: number;
  readonly slots: readonly KvmSlot[];
  /**
   * Turns KVM_MEM_LOG_DIRTY_PAGES of all these slots on or off, with KVM_SET_USER_MEMORY_REGION. Must not resolve
   * before that has happened: KVM write-protects the slots in that call.
   */
  readonly setLogging: (on: boolean) => void | Promise<void>;
  /** Default: `manual` where the kernel has it. */
  readonly mode?: KvmDirtyLogMode;
}

/** What one slot has told us. */
interface SlotLog {
  readonly place: KvmSlot;
  /**
   * The kernel's bitmap as last read. In `manual` mode: what has been harvested and not yet cleared. The kernel's own
   * bitmap has these bits and those of later writes, so that reading it again into here loses nothing.
   */
  readonly bitmap: DirtyBitmap;
  readonly address: bigint;
  readonly get: StructBuffer<'slot' | 'dirty_bitmap'>;
}

/** KVM write-protects and clears in blocks of one 64-bit word (virt/kvm/kvm_main.c, kvm_clear_dirty_log_protect). */
const CLEAR_UNIT_PAGES = 64;

/**
 * KVM's dirty log: which pages the guest's vCPUs (and KVM's own devices) have written.
 *
 * Invariant in `manual` mode: a bit is cleared in the kernel only after a harvest has reported it, and only those bits
 * are, so that a write between a harvest and the clearing of its page sets nothing new (the bit is still set, the page
 * is read afterwards), and a write after the clearing faults and sets the bit again.
 */
export class KvmDirtyLogTracker implements DirtyTracker {
  readonly name = 'kvm';
  readonly blindSpots =
    'writes by this process itself (VMM, emulated devices, system calls into guest memory) and DMA by assigned devices';
  readonly mode: KvmDirtyLogMode;
  /** In `manual` mode only. */
  readonly rearm?: (blockIndex: number, firstPage: number, pageCount: number) => void;
  readonly #vmFd: number;
  readonly #logs: readonly SlotLog[];
  readonly #setLogging: (on: boolean) => void | Promise<void>;
  readonly #clear = new StructBuffer(KVM_CLEAR_DIRTY_LOG);
  #logging = false;

  /**
   * @throws GodwitError GODWIT_INVALID_ARGUMENT for slots that make no sense, GODWIT_UNSUPPORTED when `mode` asks for
   * `manual` and the kernel lacks it
   */
  constructor(options: KvmDirtyLogOptions) {
    for (const { slot, firstPage, pageCount } of options.slots) {
      if (Number.isSafeInteger(firstPage) && firstPage >= 0 && Number.isSafeInteger(pageCount) && pageCount > 0)
        continue;
      throw new GodwitError('GODWIT_INVALID_ARGUMENT', `KVM slot ${slot} cannot map pages ${firstPage} + ${pageCount}`);
    }
    this.#vmFd = options.vmFd;
    this.#setLogging = options.setLogging;
    this.#logs = options.slots.map(openLog);
    const offered = this.#offersManual();
    this.mode = options.mode ?? (offered ? 'manual' : 'get-and-clear');
    if (this.mode === 'manual') {
      if (!offered) {
        throw new GodwitError('GODWIT_UNSUPPORTED', 'KVM has no KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 (Linux 5.0)');
      }
      this.rearm = (blockIndex, firstPage, pageCount) => this.#rearm(blockIndex, firstPage, pageCount);
    }
  }

  async start(): Promise<void> {
    if (this.#logging) throw new GodwitError('GODWIT_INVALID_STATE', 'KVM dirty logging is on already');
    try {
      // Before logging goes on. Never with KVM_DIRTY_LOG_INITIALLY_SET: our log begins empty, round 1 is all of RAM.
      this.#setManual(this.mode === 'manual');
      this.#logging = true;
      await this.#setLogging(true);
    } catch (error) {
      await this.stop().catch(() => undefined);
      throw trackerFailed(this.name, 'start', error);
    }
    for (const log of this.#logs) log.bitmap.clearAll();
  }

  /** Takes microseconds (2 us for 64 MiB), in both modes; `get-and-clear` adds the write protection. */
  async harvest(into: DirtyBitmaps): Promise<void> {
    if (!this.#logging) throw new GodwitError('GODWIT_INVALID_STATE', 'KVM dirty logging is off');
    for (const log of this.#logs) {
      try {
        ioctl(this.#vmFd, Kvm.KVM_GET_DIRTY_LOG, log.get.bytes, 'KVM_GET_DIRTY_LOG');
      } catch (error) {
        throw trackerFailed(this.name, `read the log of slot ${log.place.slot}`, error);
      }
      log.bitmap.maskTail();
      report(log, into.at(log.place.blockIndex));
    }
  }

  async stop(): Promise<void> {
    if (!this.#logging) return;
    this.#logging = false;
    try {
      await this.#setLogging(false);
    } catch (error) {
      throw trackerFailed(this.name, 'stop', error);
    }
  }

  #offersManual(): boolean {
    const options = tryIoctl(this.#vmFd, Kvm.KVM_CHECK_EXTENSION, Kvm.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
    return options > 0 && (options & Kvm.KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE) !== 0;
  }

  #setManual(on: boolean): void {
    if (!on && !this.#offersManual()) return;
    const capability = new StructBuffer(KVM_ENABLE_CAP)
      .set('cap', Kvm.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)
      .set('args[0]', on ? Kvm.KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE : 0);
    ioctl(this.#vmFd, Kvm.KVM_ENABLE_CAP, capability.bytes, 'KVM_ENABLE_CAP');
  }

  #rearm(blockIndex: number, firstPage: number, pageCount: number): void {
    if (!this.#logging) throw new GodwitError('GODWIT_INVALID_STATE', 'KVM dirty logging is off');
    for (const log of this.#logs) {
      const { place } = log;
      if (place.blockIndex !== blockIndex) continue;
      const from = Math.max(firstPage, place.firstPage) - place.firstPage;
      const to = Math.min(firstPage + pageCount, place.firstPage + place.pageCount) - place.firstPage;
      if (from < to) this.#clearPages(log, from, to);
    }
  }

  /**
   * Clears the harvested bits of pages `from`..`to` of a slot. KVM counts from the slot's start, in units of 64 pages,
   * so that a slot that starts at an odd page of its block makes us widen the range. The pages that this adds are
   * harvested and not yet read either (or their bits are not ours to clear and stay): clearing them early is safe.
   */
  #clearPages(log: SlotLog, from: number, to: number): void {
    const { bitmap, place } = log;
    const first = Math.floor(from / CLEAR_UNIT_PAGES) * CLEAR_UNIT_PAGES;
    const end = Math.min(Math.ceil(to / CLEAR_UNIT_PAGES) * CLEAR_UNIT_PAGES, place.pageCount);
    if (bitmap.countRange(first, end - first) === 0) return;
    this.#clear
      .set('slot', place.slot)
      .set('num_pages', end - first)
      .set('first_page', first)
      .set('dirty_bitmap', log.address + BigInt(first / 8));
    try {
      ioctl(this.#vmFd, Kvm.KVM_CLEAR_DIRTY_LOG, this.#clear.bytes, 'KVM_CLEAR_DIRTY_LOG');
    } catch (error) {
      throw trackerFailed(this.name, `clear ${end - first} pages of slot ${place.slot} from ${first} on`, error);
    }
    bitmap.clearRange(first, end - first);
  }
}

function openLog(place: KvmSlot): SlotLog {
  const bitmap = new DirtyBitmap(place.pageCount);
  const address = addressOf(bitmap.bytes);
  const get = new StructBuffer(KVM_DIRTY_LOG).set('slot', place.slot).set('dirty_bitmap', address);
  return { place, bitmap, address, get };
}

function report({ bitmap, place }: SlotLog, into: DirtyBitmap): void {
  if (place.firstPage + place.pageCount > into.pageCount) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `KVM slot ${place.slot} ends at page ${place.firstPage + place.pageCount} of a block of ${into.pageCount}`,
    );
  }
  if (place.firstPage % 32 === 0) {
    into.orWords(bitmap.words, place.firstPage);
    return;
  }
  for (let first = bitmap.nextDirty(0); first !== -1; ) {
    const end = bitmap.nextClean(first);
    into.setRange(place.firstPage + first, end - first);
    first = end < place.pageCount ? bitmap.nextDirty(end) : -1;
  }
}
