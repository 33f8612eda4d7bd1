import type { WordsAndBytes } from './delta-format.js';

/** Slots of a set: a page can be in any slot of the set that its number says. */
const WAYS = 8;

/** Waiting rounds double with every delta that did not pay, up to this power of two. */
const MOST_BACKOFF = 6;

/** A page whose delta did not pay twice in a row is sent whole for a while. */
const PATIENCE = 2;

/** What is known of a slot, as 32-bit words. */
const FIELDS = 4;
/** The round in which the page was last sent, 0 for never: before its end the slot is borrowed by a write. */
const ROUND = 0;
/** 1 when the slot holds the page as it was sent last; 0 when it was sent past the cache. */
const VALID = 1;
/** Deltas in a row that did not pay (low byte), and deltas at all that the slot was good for (the rest). */
const TALLY = 2;
/** Until this round the page is sent whole, past the cache. */
const RESTS_UNTIL = 3;
const ONE_HIT = 0x100;

/**
 * What `DeltaCache.look` found for a page:
 *
 * - `hit`: the slot holds the version that the destination has; encode against it;
 * - `fill`: the slot is the page's from now on; copy the page into it and send it from there;
 * - `bypass`: send the page past the cache.
 */
export type Look = 'hit' | 'fill' | 'bypass';

/** Everything that threads share of a cache. */
export interface DeltaCacheStorage {
  readonly pageSize: number;
  readonly sets: number;
  readonly buffer: ArrayBufferLike;
}

/**
 * The versions of pages that the destination has: a fixed slab of slots, eight to a set.
 *
 * A slot may be used as the base of a delta only when the destination surely has what is in it:
 *
 * - a page is copied into its slot first and sent from there, so that a guest that writes it meanwhile changes neither;
 * - a slot is valid from the round *after* the one in which it was sent: that round begins when the one before it was
 *   acknowledged. When the link is lost, what is owed of a round is sent again under the same number, so the pages of it
 *   are not valid then, whatever the destination has got;
 * - a page that goes past the cache (as zero, as a hole, by reference) makes its slot invalid;
 * - a destination that starts anew has nothing: `clear`.
 *
 * A slot that was used in a round is not given to another page before the next one: a write may be borrowing it. Slots
 * that have been good for a delta in the last round are kept too, so that a working set larger than the cache does not
 * push itself out in circles; of the others the one that was sent longest ago goes first.
 *
 * Threads may share the storage. A page is sent once in a round, by one of them; what they contend for are the slots of a
 * set, and a lock of its own protects each set while a slot is looked for.
 */
export class DeltaCache {
  readonly storage: DeltaCacheStorage;
  readonly slots: number;
  /** The slab. A slot's words start at `slot * pageSize / 4`. */
  readonly pages: WordsAndBytes;
  /** What the last `look` found, and where; `slot` is of no use after `bypass`. */
  found: Look = 'bypass';
  readonly #sets: number;
  readonly #shared: boolean;
  /** Page number + 1; 0 for an empty slot. */
  readonly #tags: Float64Array;
  readonly #fields: Int32Array;
  /** One for each set, and whether the cache is in use. */
  readonly #locks: Int32Array;

  /** Over storage that is all zero, or that another thread uses too. */
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

  /** False as long as nothing was ever remembered, by any thread: then there is nothing to drop. */
  get used(): boolean {
    return this.#locks[this.#sets] === 1;
  }

  /**
   * Storage for at most `byteLength` bytes of pages, at least one set; what is known of them comes on top, 24 bytes a
   * page. Memory that threads can share where there is such a thing.
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
   * Finds the slot of `page` for sending it in `round`, and sets `found`. With `take` a slot is given to a page that has
   * none; without, only those that have one are found.
   */
  look(page: number, round: number, take: boolean): number {
    const set = page % this.#sets;
    this.#lock(set);
    const slot = this.#find(page, set, round, take);
    this.#unlock(set);
    return slot;
  }

  /** The delta of the page in `slot` did not pay; the slot holds what was sent instead. */
  failed(slot: number, round: number): void {
    const at = slot * FIELDS;
    const failures = Math.min((this.#field(at + TALLY) & 0xff) + 1, MOST_BACKOFF);
    this.#fields[at + TALLY] = (this.#field(at + TALLY) & ~0xff) | failures;
    if (failures < PATIENCE) return;
    this.#fields[at + VALID] = 0;
    this.#fields[at + RESTS_UNTIL] = round + 2 ** failures;
  }

  /** The delta of the page in `slot` was sent. */
  paid(slot: number): void {
    const at = slot * FIELDS + TALLY;
    this.#fields[at] = Math.min((this.#field(at) & ~0xff) + ONE_HIT, 2 ** 30);
  }

  /** These pages are sent past the cache. */
  drop(firstPage: number, pageCount: number): void {
    if (pageCount > this.slots) {
      // A hole of many gigabytes: what is in the cache is less to look at than what is in the hole.
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

  /** Forgets everything: the destination has nothing. No channel may be using the cache. */
  clear(): void {
    this.#tags.fill(0);
    this.#fields.fill(0);
  }

  /** Opens what a thread that was ended by force may have left locked. No channel may be using the cache. */
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

  /** The slot that is needed least, or -1 when all are needed. */
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
    // Held for as long as eight slots take to be looked at.
    while (Atomics.compareExchange(this.#locks, set, 0, 1) !== 0);
  }

  #unlock(set: number): void {
    if (this.#shared) Atomics.store(this.#locks, set, 0);
  }
}
