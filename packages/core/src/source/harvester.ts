import { abortable } from '../abortable.js';
import type { Clock } from '../clock.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { TrackerHarvest } from '../round-record.js';
import type { TrackerUnion } from '../tracker/tracker-union.js';

export interface Harvest {
  readonly bitmaps: DirtyBitmaps;
  readonly dirtyPages: number;
  /** Pages that would be left if the guest were paused now: these, and those that trackers report only then. */
  readonly pagesWhenStopped: number;
  readonly trackers: readonly TrackerHarvest[];
  readonly harvestMs: number;
  /** Milliseconds since the end of the previous harvest: the dirty rate is counted over this time. */
  readonly sinceMs: number;
}

/**
 * Harvests the tracker into two sets of dirty bitmaps in turn: one is being sent and must be kept until the destination has
 * acknowledged it, the other collects what the guest writes meanwhile.
 */
export class Harvester {
  readonly #tracker: TrackerUnion;
  readonly #clock: Clock;
  readonly #memory: GuestMemory;
  readonly #spare: DirtyBitmaps[];
  /** Pages that a `load` has written at the destination, where no tracker of the source can see them. */
  #owed: DirtyBitmaps | undefined;
  /** Where pages are counted that trackers report only when all stands still. */
  #stopped: DirtyBitmaps | undefined;
  /** A harvest whose `signal` aborted before it ended. The bits that it takes from the trackers are nowhere else. */
  #abandoned: Abandoned | undefined;
  #lastEnd: number;

  /**
   * @param before the harvester whose place this one takes, when everything is sent anew: a harvest of it that nobody waited for may
   *   still take bits from the trackers, which are then in no other bitmap
   */
  constructor(memory: GuestMemory, tracker: TrackerUnion, clock: Clock, before?: Harvester) {
    if (before !== undefined) this.#abandoned = before.#abandoned;
    this.#tracker = tracker;
    this.#clock = clock;
    this.#memory = memory;
    this.#spare = [new DirtyBitmaps(memory), new DirtyBitmaps(memory)];
    this.#lastEnd = clock.now();
  }

  /** Milliseconds since the last harvest. */
  get sinceMs(): number {
    return this.#clock.now() - this.#lastEnd;
  }

  /** A harvest that nobody waits for any more, and that may still take bits from the trackers; resolves when it has ended. */
  get pending(): Promise<unknown> | undefined {
    return this.#abandoned?.work;
  }

  /** Returns a free set of bitmaps, cleared. */
  take(): DirtyBitmaps {
    const bitmaps = this.#spare.pop() ?? new DirtyBitmaps(this.#memory);
    bitmaps.clearAll();
    return bitmaps;
  }

  /** Frees the bitmaps and forgets their bits: only after the destination has acknowledged every page of them. */
  release(bitmaps: DirtyBitmaps): void {
    this.#spare.push(bitmaps);
  }

  /** Bitmaps whose pages are added to the next harvest; to be set in this tick. */
  get owed(): DirtyBitmaps {
    this.#owed ??= new DirtyBitmaps(this.#memory);
    return this.#owed;
  }

  /**
   * ORs every page written since the last harvest into `bitmaps` (a free set when omitted). When `signal` aborts first, it rejects,
   * and the next harvest includes the bits that this one takes.
   */
  async harvest(signal: AbortSignal, bitmaps: DirtyBitmaps = this.take()): Promise<Harvest> {
    const work = this.#harvest(bitmaps, this.#abandoned);
    this.#abandoned = { bitmaps, work };
    const harvest = await abortable(work, signal);
    this.#abandoned = undefined;
    return harvest;
  }

  async #harvest(bitmaps: DirtyBitmaps, before: Abandoned | undefined): Promise<Harvest> {
    if (before !== undefined) {
      await before.work.catch(() => {});
      if (before.bitmaps !== bitmaps) bitmaps.or(before.bitmaps);
    }
    const start = this.#clock.now();
    const sinceMs = start - this.#lastEnd;
    await this.#tracker.harvest(bitmaps);
    const owed = this.#owed;
    this.#owed = undefined;
    if (owed !== undefined) bitmaps.or(owed);
    const end = this.#clock.now();
    this.#lastEnd = end;
    const { harvests: trackers } = this.#tracker;
    const dirtyPages = bitmaps.count();
    const pagesWhenStopped = this.#pagesWhenStopped(bitmaps, dirtyPages);
    return { bitmaps, dirtyPages, pagesWhenStopped, trackers, harvestMs: end - start, sinceMs };
  }

  #pagesWhenStopped(bitmaps: DirtyBitmaps, dirtyPages: number): number {
    if (!this.#tracker.owesWhenStopped) return dirtyPages;
    this.#stopped ??= new DirtyBitmaps(this.#memory);
    this.#stopped.clearAll();
    this.#tracker.whenStopped(this.#stopped);
    this.#stopped.or(bitmaps);
    return this.#stopped.count();
  }
}

interface Abandoned {
  readonly bitmaps: DirtyBitmaps;
  readonly work: Promise<unknown>;
}
