import type { WordsAndBytes } from './delta-format.js';

/** Slots of a set. A page's number selects its set; the page can be in any slot of it. */
const WAYS = 8;

/** The number of rounds for which a page is sent whole doubles with every delta that did not pay, up to this power of two. */
const MOST_BACKOFF = 6;

/** After this many deltas in a row that did not pay, a page is sent whole for some rounds. */
const PATIENCE = 2;

/** Fields of a slot, as 32-bit words. */
const FIELDS = 4;
/** The round in which the page was last sent, 0 for never. Until the end of that round a write may borrow the slot. */
const ROUND = 0;
/** 1 when the slot has the page as it was last sent; 0 when the page was last sent without the cache. */
const VALID = 1;
/** Deltas in a row that did not pay (low byte), and the number of deltas that did (the rest). */
const TALLY = 2;
/** Until this round the page is sent whole, without the cache. */
const RESTS_UNTIL = 3;
const ONE_HIT = 0x100;

/**
 * What `DeltaCache.look` found for a page:
 *
 * - `hit`: the slot has the version that the destination has; encode against it;
 * - `fill`: the slot is given to the page; copy the page into it and send it from there;
 * - `bypass`: send the page without the cache.
 */
export type Look = 'hit' | 'fill' | 'bypass';

/** The memory of a cache, which threads can share; can be passed to `postMessage` as it is. */
export interface DeltaCacheStorage {
  readonly pageSize: number;
  readonly sets: number;
  readonly buffer: ArrayBufferLike;
}

/**
 * The versions of pages that the destination has, in a fixed number of slots, eight in a set.
 *
 * A slot may be used as the base of a delta only when the destination certainly has its content:
 *
 * - A page is copied into its slot first and sent from there, so that a write of the guest changes neither.
 * - A slot is valid from the round *after* the one in which it was sent, which begins once the earlier round was acknowledged. After a
 *   lost link the owed pages of a round are sent again in the same round, so that their slots are not valid, whatever the destination
 *   has received.
 * - A page that is sent without the cache (as zero, as a hole, by reference) makes its slot invalid.
 * - For a destination that was restarted every slot is invalid: `clear`.
 *
 * A slot that was used in a round is not given to another page in the same round, since a write may borrow it. Slots that gave a delta
 * in the last round are kept too, so that a working set larger than the cache does not evict itself again and again. Of the other slots
 * the one whose page was sent longest ago is evicted first.
 *
 * Threads may share the storage. A page is sent once in a round, by one thread. Threads contend for the slots of a set: a lock protects
 * each set while a slot is looked up.
 */
export class DeltaCache {
  readonly storage: DeltaCacheStorage;
  readonly slots: number;
  /** The contents of all slots. A slot's words start at `slot * pageSize / 4`. */
  readonly pages: WordsAndBytes;
  /** The result of the last `look`; the slot that it returned is not to be used after `bypass`. */
  found: Look = 'bypass';
  readonly #sets: number;
  readonly #shared: boolean;
  /** For each slot: the number of its page + 1; 0 for an empty slot. */
  readonly #tags: Float64Array;
  readonly #fields: Int32Array;
  /** A lock for each set, and as the last word whether any page was ever kept. */
  readonly #locks: Int32Array;

  /** Makes a cache over storage that is all zero, or that another thread's cache uses too. */
  constructor(storage: DeltaCacheStorage) {
    this.storage = storage;
    const { pageSize, sets, buffer } = storage;
    this.#sets = sets;
    this.slots = sets * WAYS;
    this.#shared = !(buffer instanceof ArrayBuffer);
    const slab = this.slots * pageSize;
    this.pages = {
      bytes: new Uint8Array(buffer, 0, slab),
      words: new Int32Array(buffer, 0, slab / 4),
    };
    const tags = slab + (-slab & 7);
    this.#tags = new Float64Array(buffer, tags, this.slots);
    this.#fields = new Int32Array(buffer, tags + this.slots * 8, this.slots * FIELDS);
    this.#locks = new Int32Array(buffer, tags + this.slots * (8 + FIELDS * 4), sets + 1);
  }

  /** False while no thread has ever kept a page: then there is nothing to drop. */
  get used(): boolean {
    return this.#locks[this.#sets] === 1;
  }

  /**
   * Allocates storage for at most `byteLength` bytes of pages, but at least one set, and 24 bytes of fields for each page. It is shared
   * memory where `SharedArrayBuffer` exists.
   */
  static storage(byteLength: number, pageSize: number): DeltaCacheStorage {
    const sets = Math.max(1, Math.floor(byteLength / pageSize / WAYS));
    const slots = sets * WAYS;
    const slab = slots * pageSize;
    const size = slab + (-slab & 7) + slots * (8 + FIELDS * 4) + sets * 4 + 4;
    const buffer = typeof SharedArrayBuffer === 'undefined' ? new ArrayBuffer(size) : new SharedArrayBuffer(size);
    return { pageSize, sets, buffer };
  }

  /**
   * Returns the slot of `page` for sending it in `round`, and sets `found`. With `take` a page without a slot is given one. Returns -1
   * for a page without a slot when `take` is false or no slot is free.
   */
  look(page: number, round: number, take: boolean): number {
    const set = page % this.#sets;
    this.#lock(set);
    const slot = this.#find(page, set, round, take);
    this.#unlock(set);
    return slot;
  }

  /** Notes that the delta of the page in `slot` did not pay; the slot contains the whole page that was sent instead. */
  failed(slot: number, round: number): void {
    const at = slot * FIELDS;
    const failures = Math.min((this.#field(at + TALLY) & 0xff) + 1, MOST_BACKOFF);
    this.#fields[at + TALLY] = (this.#field(at + TALLY) & ~0xff) | failures;
    if (failures < PATIENCE) return;
    this.#fields[at + VALID] = 0;
    this.#fields[at + RESTS_UNTIL] = round + 2 ** failures;
  }

  /** Notes that the delta of the page in `slot` was sent. */
  paid(slot: number): void {
    const at = slot * FIELDS + TALLY;
    this.#fields[at] = Math.min((this.#field(at) & ~0xff) + ONE_HIT, 2 ** 30);
  }

  /** Makes the slots of these pages invalid: they are sent without the cache. */
  drop(firstPage: number, pageCount: number): void {
    if (pageCount > this.slots) {
      // For a hole with more pages than the cache has slots, a loop over the slots is quicker than one over the pages.
      for (let slot = 0; slot < this.slots; slot++) {
        const page = (this.#tags[slot] as number) - 1;
        if (page >= firstPage && page < firstPage + pageCount) this.#fields[slot * FIELDS + VALID] = 0;
      }
      return;
    }
    for (let page = firstPage; page < firstPage + pageCount; page++) {
      const set = page % this.#sets;
      for (let slot = set; slot < this.slots; slot += this.#sets) {
        if (this.#tags[slot] === page + 1) this.#fields[slot * FIELDS + VALID] = 0;
      }
    }
  }

  /** Empties every slot, since the destination has no pages. No channel may be using the cache. */
  clear(): void {
    this.#tags.fill(0);
    this.#fields.fill(0);
  }

  /** Unlocks every set: a terminated thread may have left one locked. No channel may be using the cache. */
  unlockAll(): void {
    this.#locks.fill(0, 0, this.#sets);
  }

  #find(page: number, set: number, round: number, take: boolean): number {
    const tags = this.#tags;
    const fields = this.#fields;
    for (let slot = set; slot < this.slots; slot += this.#sets) {
      if (tags[slot] !== page + 1) continue;
      const at = slot * FIELDS;
      const sent = this.#field(at + ROUND);
      const valid = this.#field(at + VALID) === 1 && sent < round;
      fields[at + ROUND] = round;
      if (valid) {
        this.found = 'hit';
      } else if (take && this.#field(at + RESTS_UNTIL) <= round) {
        fields[at + VALID] = 1;
        this.found = 'fill';
      } else {
        fields[at + VALID] = 0;
        this.found = 'bypass';
      }
      return slot;
    }
    this.found = 'bypass';
    if (!take) return -1;
    const slot = this.#victim(set, round);
    if (slot === -1) return -1;
    const at = slot * FIELDS;
    tags[slot] = page + 1;
    this.#locks[this.#sets] = 1;
    fields[at + ROUND] = round;
    fields[at + VALID] = 1;
    fields[at + TALLY] = 0;
    fields[at + RESTS_UNTIL] = 0;
    this.found = 'fill';
    return slot;
  }

  /** The slot to evict, or -1 when all must be kept. */
  #victim(set: number, round: number): number {
    let victim = -1;
    let oldest = round;
    for (let slot = set; slot < this.slots; slot += this.#sets) {
      if (this.#tags[slot] === 0) return slot;
      const at = slot * FIELDS;
      const sent = this.#field(at + ROUND);
      const useful = this.#field(at + VALID) === 1 && this.#field(at + TALLY) >= ONE_HIT;
      if (sent >= oldest || (useful && sent >= round - 1)) continue;
      oldest = sent;
      victim = slot;
    }
    return victim;
  }

  #field(at: number): number {
    return this.#fields[at] as number;
  }

  #lock(set: number): void {
    if (!this.#shared) return;
    // A spin lock: it is held only while eight slots are compared.
    while (Atomics.compareExchange(this.#locks, set, 0, 1) !== 0);
  }

  #unlock(set: number): void {
    if (this.#shared) Atomics.store(this.#locks, set, 0);
  }
}
