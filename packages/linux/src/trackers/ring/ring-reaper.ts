import { type DirtyBitmap, GodwitError } from '@godwit/core/pages';
import type { KvmSlot } from '../kvm-rearm.js';
import type { VcpuRing } from './vcpu-ring.js';

/** A thread whose signals never end makes no progress: see `RingReaper.reap`. */
const MOST_IDLE_RESETS = 1000;

export interface RingReaperParts {
  readonly rings: readonly VcpuRing[];
  readonly slots: readonly Pick<KvmSlot, 'slot' | 'pageCount'>[];
  /** The entries collected from each ring so far, modulo 2^32: written here, and read by any thread. */
  readonly collected: Int32Array;
  /** KVM_RESET_DIRTY_RINGS: the number of entries that were reset. Throws when it fails. */
  readonly reset: () => number;
}

/** Empties the dirty rings of a VM. One thread at a time. */
export class RingReaper {
  readonly #rings: readonly VcpuRing[];
  readonly #slots = new Map<number, { readonly index: number; readonly pageCount: number }>();
  readonly #collected: Int32Array;
  readonly #reset: () => number;
  readonly #stuck: { readonly exits: number | undefined; readonly times: number }[] = [];

  constructor({ rings, slots, collected, reset }: RingReaperParts) {
    this.#rings = rings;
    this.#collected = collected;
    this.#reset = reset;
    for (const [index, { slot, pageCount }] of slots.entries()) this.#slots.set(slot, { index, pageCount });
  }

  /** Whether any ring has at least this many entries to be collected. */
  anyHas(entries: number): boolean {
    return this.#rings.some((ring) => ring.hasDirty(entries));
  }

  /**
   * Collects the entries of all rings, sets the bits of their pages (one bitmap for each slot), and makes KVM reset them. When it returns,
   * every page of these entries is write-protected again: none of them may be read earlier. Entries of other slots are left out.
   *
   * @throws GodwitError GODWIT_TRACKER_FAILED when KVM has overrun a ring, reports a page that the slot does not have, or does not reset
   * the collected entries. The written pages are then unknown: turn logging off, and call `giveUp`
   */
  reap(into: readonly DirtyBitmap[]): void {
    let owed = 0;
    const take = (slot: number, page: number): void => this.#take(slot, page, into);
    // The places are found before any entry is collected, since these resets are not counted.
    for (const ring of this.#rings) ring.findPlace(this.#reset);
    for (const [vcpu, ring] of this.#rings.entries()) {
      const count = ring.collect(take);
      if (count === ring.entries) throw overrun(vcpu, ring.entries);
      Atomics.add(this.#collected, vcpu, count);
      owed += count;
    }
    // A pending signal ends KVM_RESET_DIRTY_RINGS early, which then returns the number so far, without an error.
    for (let idle = 0; owed > 0; ) {
      const done = this.#reset();
      owed -= done;
      idle = done > 0 ? 0 : idle + 1;
      if (idle === MOST_IDLE_RESETS || owed < 0) {
        throw new GodwitError(
          'GODWIT_TRACKER_FAILED',
          owed < 0
            ? `KVM has reset ${-owed} more entries of its dirty rings than were collected: something else reaps them too`
            : `KVM does not reset ${owed} entries of its dirty rings that were collected: it has overwritten some of them`,
        );
      }
    }
  }

  /** Empties the rings after a failure, without reporting their pages. To be called with logging off. */
  giveUp(): void {
    for (const ring of this.#rings) ring.giveUp(this.#reset);
  }

  /**
   * Makes room for vCPUs that cannot run because KVM has overrun their rings more than once around.
   *
   * @param fullExits how often each vCPU's ring was full: a vCPU with two such exits and an empty ring has not only reported late
   */
  makeRoom(fullExits: readonly number[]): void {
    for (const [vcpu, ring] of this.#rings.entries()) {
      const before = this.#stuck[vcpu] ?? { exits: fullExits[vcpu], times: 0 };
      const again = before.exits !== fullExits[vcpu];
      const times = ring.isLost ? before.times + (again ? 1 : 0) : 0;
      if (times >= 2) ring.makeRoom(this.#reset);
      this.#stuck[vcpu] = { exits: fullExits[vcpu], times: times >= 2 ? 0 : times };
    }
  }

  #take(number: number, page: number, into: readonly DirtyBitmap[]): void {
    const slot = this.#slots.get(number);
    if (slot === undefined) return;
    if (page >= slot.pageCount) {
      throw new GodwitError(
        'GODWIT_TRACKER_FAILED',
        `KVM's dirty ring has page ${page} of slot ${number}, which has ${slot.pageCount} pages`,
      );
    }
    (into[slot.index] as DirtyBitmap).set(page);
  }
}

/** KVM keeps some entries in reserve, and leaves the guest before a ring is full. A KVM that emulates instructions may check too late. */
function overrun(vcpu: number, entries: number): GodwitError {
  return new GodwitError(
    'GODWIT_TRACKER_FAILED',
    `KVM has filled the dirty ring of vCPU ${vcpu} to its last entry, and may have overwritten some: make rings of more than ${entries} entries`,
  );
}
