import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';

/**
 * Somebody who sees writes to guest memory: KVM's dirty log, VFIO, pagemap, the VMM itself.
 *
 * Guarantees an implementation gives:
 *
 * - After `start()` has resolved, every write that this tracker can see sets its page's bit in some later `harvest`.
 * - `harvest` ORs; it never clears a bit of `into`.
 * - A write that happens after a page was re-armed is reported by a later harvest; one before it, by this one.
 * - An error means "I do not know": the engine then treats every page as dirty.
 *
 * Re-arming happens in `harvest`, unless the tracker has `rearm`: then a harvest may leave the pages it reported
 * un-armed, and the engine promises to call `rearm` for each range **before** it reads any page of that range
 * (KVM's manual dirty-log protect: clearing late means that a page written twice before it is sent is sent once).
 */
export interface DirtyTracker {
  /** For messages and statistics: `kvm`, `pagemap`, `vfio-type1`, ... */
  readonly name: string;
  /** Which writers this tracker cannot see, in words for a person: shown in errors and statistics. */
  readonly blindSpots?: string;
  /**
   * False when it also reports pages that nobody wrote (VFIO type1 reports pinned pages at every harvest). The engine
   * then cannot use it to prove that a paused guest's memory stands still. Default true.
   */
  readonly exact?: boolean;
  start(): Promise<void>;
  /** ORs into `into` every page written since the last harvest (since `start` for the first). */
  harvest(into: DirtyBitmaps): Promise<void>;
  /**
   * Deferred re-arm of pages reported by the last harvests. The range is 64-page aligned, except at a block's end.
   * Bits not yet reported must survive. Throwing means the range may be lost: everything becomes dirty.
   */
  rearm?(blockIndex: number, firstPage: number, pageCount: number): void;
  /** Idempotent; after it the tracker costs the guest nothing. */
  stop(): Promise<void>;
}
