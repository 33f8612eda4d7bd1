import { checkOptions, type DirtyBitmaps, type DirtyTracker, GodwitError } from '@godwit/core';
import type { Rearm, ThreadRecipe } from '@godwit/core/pages';
import { KVM_ENABLE_CAP, KvmDirtyLog as Kvm } from '../layouts/kvm-dirty-log.js';
import { StructBuffer } from '../layouts/struct-buffer.js';
import { Errno, ioctl, tryIoctl } from '../libc/index.js';
import { type KvmSlot, kvmRearm, kvmRearmRecipe } from './kvm-rearm.js';
import { checkSlots, openSlotLog, readSlotLog, reportSlot, type SlotLog } from './slot-log.js';
import { trackerFailed } from './tracker-error.js';

/**
 * - `manual`: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2. A harvest only reads; pages are write-protected again by `rearmPages`, just before
 *   they are read. Both take less time, and a page that is written twice before it is sent is sent once.
 * - `get-and-clear`: every harvest write-protects what it reports. For kernels before 5.0.
 */
export type KvmDirtyLogMode = 'manual' | 'get-and-clear';

/** Options of a `KvmDirtyLogTracker`. */
export interface KvmDirtyLogOptions {
  /** File descriptor of the VM (KVM_CREATE_VM). The caller goes on to own it. */
  readonly vmFd: number;
  readonly slots: readonly KvmSlot[];
  /**
   * Turns KVM_MEM_LOG_DIRTY_PAGES of all these slots on or off, with KVM_SET_USER_MEMORY_REGION. The promise must not resolve before
   * the call: KVM write-protects the slots in it.
   */
  readonly setLogging: (on: boolean) => void | Promise<void>;
  /** Default: `manual` where the kernel has it. */
  readonly mode?: KvmDirtyLogMode;
}

/**
 * KVM's dirty log: which pages the guest's vCPUs (and KVM's own devices) have written.
 *
 * In `manual` mode the bit of a page, and of no other page, is cleared in the kernel just before the page is read: the read includes a
 * write from before the clearing, and a later write faults and sets the bit again.
 *
 * @example
 * const setLogging = (on: boolean) => vm.setMemoryRegion({ ...region, logDirty: on });
 * const tracker = new KvmDirtyLogTracker({ vmFd: vm.fd, slots, setLogging });
 */
export class KvmDirtyLogTracker implements DirtyTracker {
  readonly name = 'kvm';
  readonly blindSpots =
    'writes by this process itself (VMM, emulated devices, system calls into guest memory) and DMA by assigned devices';
  readonly mode: KvmDirtyLogMode;
  /** In `manual` mode only, as is `rearmRecipe`. */
  readonly rearmPages?: Rearm;
  readonly rearmRecipe?: ThreadRecipe;
  readonly #vmFd: number;
  readonly #logs: readonly SlotLog[];
  readonly #setLogging: (on: boolean) => void | Promise<void>;
  #logging = false;

  /**
   * @throws GodwitError GODWIT_INVALID_ARGUMENT for impossible slots, GODWIT_UNSUPPORTED when `mode` asks for `manual` and the kernel
   * lacks it
   */
  constructor(options: KvmDirtyLogOptions) {
    checkOptions<KvmDirtyLogOptions>('KvmDirtyLogTracker', options, {
      vmFd: true,
      slots: true,
      setLogging: true,
      mode: true,
    });
    checkSlots(options.slots);
    this.#vmFd = options.vmFd;
    this.#setLogging = options.setLogging;
    this.#logs = options.slots.map(openSlotLog);
    const offered = this.#offersManual();
    this.mode = options.mode ?? (offered ? 'manual' : 'get-and-clear');
    if (this.mode === 'manual') {
      if (!offered) {
        throw new GodwitError('GODWIT_UNSUPPORTED', 'KVM has no KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 (Linux 5.0)');
      }
      const recipe = kvmRearmRecipe({ vmFd: options.vmFd, slots: options.slots });
      const rearm = kvmRearm(recipe.options);
      this.rearmRecipe = recipe;
      this.rearmPages = (...pages) => {
        if (!this.#logging) throw new GodwitError('GODWIT_INVALID_STATE', 'KVM dirty logging is off');
        rearm(...pages);
      };
    }
  }

  /** @throws GodwitError GODWIT_UNSUPPORTED when the VM has dirty rings, and so no log; GODWIT_INVALID_STATE, GODWIT_TRACKER_FAILED */
  async start(): Promise<void> {
    if (this.#logging) throw new GodwitError('GODWIT_INVALID_STATE', 'KVM dirty logging is on already');
    this.#refuseRings();
    try {
      // The mode is set before logging is turned on. KVM_DIRTY_LOG_INITIALLY_SET is not used: the log begins empty, since round 1 has
      // all of RAM.
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
      readSlotLog(log, this.#vmFd, this.name);
      reportSlot(log.place, log.bitmap, into.at(log.place.blockIndex));
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

  /**
   * Refuses a VM with rings: KVM then returns ENXIO whether or not the slot logs; for a VM without rings it returns ENOENT while
   * logging is off.
   */
  #refuseRings(): void {
    const [log] = this.#logs;
    if (log === undefined || tryIoctl(this.#vmFd, Kvm.KVM_GET_DIRTY_LOG, log.get.bytes) !== -Errno.ENXIO) return;
    throw new GodwitError(
      'GODWIT_UNSUPPORTED',
      'this VM keeps no dirty log (KVM_GET_DIRTY_LOG: ENXIO), since it has dirty rings: track it with KvmDirtyRingTracker, or make ' +
        'it without `enableDirtyRings`',
    );
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
}
