import { KVM_DIRTY_GFN, KvmDirtyRing } from '../../layouts/kvm-dirty-ring.js';

const ENTRY_WORDS = KVM_DIRTY_GFN.size / 4;
const { fields } = KVM_DIRTY_GFN;
const SLOT = fields.slot[0] / 4;
const PAGE_LOW = fields.offset[0] / 4;
const PAGE_HIGH = PAGE_LOW + 1;
const { KVM_DIRTY_GFN_F_DIRTY: DIRTY, KVM_DIRTY_GFN_F_RESET: RESET } = KvmDirtyRing;
const EMPTY = 0;
/** The place of the next entry is not known. */
const UNKNOWN = -1;

/**
 * The dirty ring of one vCPU. KVM fills entries in order and marks each as dirty; this class reads an entry and marks it for KVM to reset;
 * KVM resets such entries (KVM_RESET_DIRTY_RINGS), write-protects their pages and may fill them again.
 *
 * ```
 *   empty --KVM: a page is written--> dirty --collect--> to be reset --KVM_RESET_DIRTY_RINGS--> empty
 * ```
 *
 * The mark is read before the entry, and written after it, each by an atomic operation: these are the acquire and the release that
 * KVM_CAP_DIRTY_LOG_RING_ACQ_REL requires, on any processor.
 */
export class VcpuRing {
  readonly entries: number;
  readonly #words: Int32Array;
  readonly #places: Int32Array;
  readonly #index: number;

  /**
   * @param words the ring's memory
   * @param places memory for the place of the next entry, at `index`: KVM does not report its own place, and goes on from there when
   * another thread takes over the ring
   */
  constructor(words: Int32Array, places: Int32Array, index: number) {
    this.#words = words;
    this.entries = words.length / ENTRY_WORDS;
    this.#places = places;
    this.#index = index;
  }

  /**
   * Takes all entries that are dirty now, in order, and returns how many there were. KVM fills none of them again before it has reset them,
   * unless it overruns the ring: when all entries were dirty, some may have been overwritten.
   */
  collect(take: (slot: number, page: number) => void): number {
    const words = this.#words;
    let place = Atomics.load(this.#places, this.#index);
    // In a ring whose entries are all dirty, the beginning cannot be found.
    if (place === UNKNOWN) return this.#count(DIRTY) === this.entries ? this.entries : 0;
    let count = 0;
    for (; count < this.entries; count++) {
      const at = place * ENTRY_WORDS;
      if (Atomics.load(words, at) !== DIRTY) break;
      take((words[at + SLOT] as number) >>> 0, pageOf(words[at + PAGE_LOW] as number, words[at + PAGE_HIGH] as number));
      Atomics.store(words, at, RESET);
      place = (place + 1) % this.entries;
    }
    Atomics.store(this.#places, this.#index, place);
    return count;
  }

  /**
   * After KVM has overrun the ring, makes it reset every entry that it counts as full, unread, so that the vCPU can enter the guest again.
   * The place at which KVM goes on is unknown until it has filled an entry. To be called with logging off.
   *
   * @param reset KVM_RESET_DIRTY_RINGS: the number of entries that were reset
   */
  giveUp(reset: () => number): void {
    const resetAll = (): void => {
      while (reset() > 0);
    };
    resetAll();
    // Empty entries that KVM counts as full come first, unless it has overwritten some of them.
    if (this.#count(DIRTY) > 0) this.#resetEmpty(resetAll);
    this.#changeAll(DIRTY, RESET);
    resetAll();
    // KVM's place is before such an entry, in the middle of a ring that is otherwise full.
    if (this.#count(RESET) > 0) {
      this.#changeAll(EMPTY, RESET);
      resetAll();
    }
    Atomics.store(this.#places, this.#index, UNKNOWN);
  }

  /**
   * Finds the place of the next entry after `giveUp`: the first one that is dirty, once there is one. KVM may still count entries before
   * it as full, as many as it had overwritten: these are reset too.
   */
  findPlace(reset: () => void): void {
    if (Atomics.load(this.#places, this.#index) !== UNKNOWN) return;
    const first = this.#firstDirty();
    if (first === UNKNOWN) return;
    this.#resetEmpty(reset);
    Atomics.store(this.#places, this.#index, first);
  }

  /**
   * For a ring that was given up and whose vCPU still cannot enter the guest, because KVM counts more entries as full than the ring has:
   * makes KVM reset some, at most half a ring, which is fewer than it counts.
   */
  makeRoom(reset: () => number): void {
    if (!this.isLost) return;
    const half = this.entries / 2;
    for (const first of [0, half]) {
      this.#changeAll(EMPTY, RESET, first, first + half);
      const done = reset();
      this.#changeAll(RESET, EMPTY);
      if (done > 0) return;
    }
  }

  /** Whether the ring was given up, and KVM has filled no entry since. */
  get isLost(): boolean {
    return Atomics.load(this.#places, this.#index) === UNKNOWN && this.#count(DIRTY) === 0;
  }

  /** Whether at least `count` entries are dirty, found by reading one entry. */
  hasDirty(count: number): boolean {
    return count <= this.entries && this.#isDirty(count - 1);
  }

  /**
   * The approximate number of dirty entries: KVM may fill more, and another thread may collect them. Logarithmic in the size of the ring.
   */
  waiting(): number {
    if (Atomics.load(this.#places, this.#index) === UNKNOWN) return this.#count(DIRTY);
    // The dirty entries are consecutive, from the next one on.
    let some = 0;
    let beyond = this.entries + 1;
    while (beyond - some > 1) {
      const middle = Math.floor((some + beyond) / 2);
      if (this.#isDirty(middle - 1)) some = middle;
      else beyond = middle;
    }
    return some;
  }

  #isDirty(ahead: number): boolean {
    const next = Atomics.load(this.#places, this.#index);
    // A ring whose place is unknown has work as soon as any entry is dirty.
    if (next === UNKNOWN) return this.#count(DIRTY) > 0;
    return Atomics.load(this.#words, ((next + ahead) % this.entries) * ENTRY_WORDS) === DIRTY;
  }

  /** The first dirty entry after one that is not, or `UNKNOWN`. */
  #firstDirty(): number {
    for (let place = 0; place < this.entries; place++) {
      const before = (place + this.entries - 1) % this.entries;
      if (this.#flags(place) === DIRTY && this.#flags(before) !== DIRTY) return place;
    }
    return UNKNOWN;
  }

  #flags(place: number): number {
    return Atomics.load(this.#words, place * ENTRY_WORDS);
  }

  /** Resets empty entries from KVM's place up to the first dirty one. KVM may fill those after the dirty ones meanwhile. */
  #resetEmpty(reset: () => void): void {
    this.#changeAll(EMPTY, RESET);
    reset();
    this.#changeAll(RESET, EMPTY);
  }

  #changeAll(from: number, to: number, first = 0, end = this.entries): void {
    for (let place = first; place < end; place++) {
      Atomics.compareExchange(this.#words, place * ENTRY_WORDS, from, to);
    }
  }

  #count(flags: number): number {
    let count = 0;
    for (let place = 0; place < this.entries; place++) if (this.#flags(place) === flags) count++;
    return count;
  }
}

function pageOf(low: number, high: number): number {
  return (high >>> 0) * 2 ** 32 + (low >>> 0);
}
