import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { Rearm } from '../queue/page-taker.js';
import type { VcpuDirtying } from '../round-record.js';
import type { ThreadRecipe } from '../thread-recipe.js';

/**
 * Reports which pages of guest memory were written: KVM's dirty log, VFIO, pagemap, the VMM itself.
 *
 * An implementation guarantees:
 *
 * - After `start()` has resolved, every write that this tracker can see sets its page's bit in some later `harvest`.
 * - `harvest` ORs; it never clears a bit of `into`.
 * - A write that happens after a page was re-armed is reported by a later harvest; one before it, by this one.
 * - An error means that the writes are not known: the engine then treats every page as dirty.
 *
 * `harvest` re-arms the pages that it reports, unless the tracker has `rearm` or `rearmPages`: then it may leave re-arming to the engine,
 * which calls that method for each range **before** it reads any page of it (KVM's manual dirty-log protect: after late clearing, a page
 * that was written twice before it is sent is sent once).
 */
export interface DirtyTracker {
  /** The tracker's name, for messages and statistics: `kvm`, `pagemap`, `vfio-type1`, ... */
  readonly name: string;
  /**
   * The writers that this tracker cannot see, in words: the text is in the record of each round (`TrackerHarvest.blindSpots`), and in the
   * error of a migration whose memory differs.
   */
  readonly blindSpots?: string;
  /**
   * False when the tracker also reports pages that were not written (VFIO type1 reports pinned pages at every harvest). The engine then
   * cannot use it to prove that the memory of a paused guest does not change. Default true.
   */
  readonly exact?: boolean;
  /**
   * The reason why the VM cannot be migrated with this tracker, or `undefined`. Called once, before the tracker is started, and by
   * `dryRun`.
   */
  migrationBlocker?(): string | undefined | Promise<string | undefined>;
  /**
   * Begins to notice writes. A `harvest` before `start` is an error and does not mean "nothing is dirty". Rejects with
   * `GODWIT_TRACKER_FAILED`.
   */
  start(): Promise<void>;
  /** ORs into `into` every page written since the last harvest (since `start` for the first). */
  harvest(into: DirtyBitmaps): Promise<void>;
  /** How each vCPU has dirtied memory between the last two harvests, for `TrackerHarvest.vcpus`; asked after each `harvest`. */
  vcpus?(): readonly VcpuDirtying[];
  /**
   * ORs into `into` the pages that the tracker will report in any case once the guest and its devices are stopped: pages that a device
   * whose writes cannot be tracked may have written. These pages count in the predicted downtime, and are not sent before the pause.
   */
  whenStopped?(into: DirtyBitmaps): void;
  /**
   * Re-arms, deferred, the pages that the last harvests have reported. The range is 64-page aligned, except at a block's end. Bits not yet
   * reported must survive. Throwing means the range may be lost: everything becomes dirty.
   */
  rearm?(blockIndex: number, firstPage: number, pageCount: number): void;
  /**
   * Re-arms exactly these pages, word by word (`Rearm`). No other page may be re-armed, since another thread may have read it already. One
   * of these pages may have a write that was not reported yet, since it is read after it is re-armed. Used in place of `rearm`.
   */
  readonly rearmPages?: Rearm;
  /**
   * How another thread makes this tracker's `rearmPages`: its `make` returns a `Rearm`, or a promise of one. With a recipe, page channels
   * on worker threads take pages by themselves; without one, a tracker with deferred re-arm makes the event loop hand out the pages.
   */
  readonly rearmRecipe?: ThreadRecipe;
  /** Stops tracking; afterwards the tracker does not slow the guest. Idempotent. */
  stop(): Promise<void>;
}
