import { abortable } from '../abortable.js';
import type { Clock } from '../clock.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { PageQueue } from '../queue/page-queue.js';
import type { TrackerHarvest } from '../round-record.js';
import type { TrackerUnion } from '../tracker/tracker-union.js';

export interface Harvest {
  /** The pages that were written since the last harvest, which are in the queue too. Valid until the next harvest. */
  readonly fresh: DirtyBitmaps;
  readonly freshPages: number;
  /** All pages that the queue owes now: the fresh ones, and earlier ones that were not sent. */
  readonly dirtyPages: number;
  /**
   * Pages that would be left if the guest were paused now: `dirtyPages`, and pages that trackers report only when the guest is paused.
   */
  readonly pagesWhenStopped: number;
  readonly trackers: readonly TrackerHarvest[];
  readonly harvestMs: number;
  /** Milliseconds since the end of the previous harvest: the dirty rate is counted over this time. */
  readonly sinceMs: number;
}

/** Harvests the trackers, and puts what the guest has written into the queue of pages that are owed. */
export class Harvester {
  readonly #tracker: TrackerUnion;
  readonly #clock: Clock;
  readonly #memory: GuestMemory;
  readonly #queue: PageQueue;
  #spare: DirtyBitmaps | undefined;
  /** Pages that a `load` has written at the destination, where no tracker of the source can see them. */
  #owed: DirtyBitmaps | undefined;
  /** Bitmaps for counting the pages that trackers report only when the guest is paused. */
  #stopped: DirtyBitmaps | undefined;
  /** A harvest whose `signal` aborted before it ended. The bits that this harvest takes from the trackers are in no other bitmap. */
  #abandoned: Abandoned | undefined;
  #lastEnd: number;
  readonly #onHarvest: (pages: DirtyBitmaps) => void;

  /**
   * @param onHarvest called with the pages of each harvest
   * @param before the harvester whose place this one takes, when everything is sent anew: an abandoned harvest of the former may
   *   still take bits from the trackers, which are then in no other bitmap
   */
  constructor(
    memory: GuestMemory,
    queue: PageQueue,
    tracker: TrackerUnion,
    clock: Clock,
    onHarvest: (pages: DirtyBitmaps) => void,
    before?: Harvester,
  ) {
    this.#onHarvest = onHarvest;
    if (before !== undefined) this.#abandoned = before.#abandoned;
    this.#tracker = tracker;
    this.#clock = clock;
    this.#memory = memory;
    this.#queue = queue;
    this.#lastEnd = clock.now();
  }

  /** Milliseconds since the last harvest. */
  get sinceMs(): number {
    return this.#clock.now() - this.#lastEnd;
  }

  /** An abandoned harvest, which may still take bits from the trackers; resolves when it has ended. */
  get pending(): Promise<unknown> | undefined {
    return this.#abandoned?.work;
  }

  /** Bitmaps whose pages are added to the next harvest; to be set in this tick. */
  get owed(): DirtyBitmaps {
    this.#owed ??= new DirtyBitmaps(this.#memory);
    return this.#owed;
  }

  /**
   * Puts every page written since the last harvest into the queue, which must be closed. When `signal` aborts first, the promise
   * rejects, and the next harvest includes the pages that this one takes from the trackers.
   */
  async harvest(signal: AbortSignal): Promise<Harvest> {
    const before = this.#abandoned;
    const bitmaps = before?.bitmaps ?? this.#spare ?? new DirtyBitmaps(this.#memory);
    const work = this.#harvest(bitmaps, before);
    this.#abandoned = { bitmaps, work };
    const { start, sinceMs } = await abortable(work, signal);
    this.#abandoned = undefined;
    this.#spare = bitmaps;
    this.#queue.owe(bitmaps);
    this.#onHarvest(bitmaps);
    const end = this.#clock.now();
    this.#lastEnd = end;
    const { harvests: trackers } = this.#tracker;
    const dirtyPages = this.#queue.count();
    return {
      ...{ fresh: bitmaps, freshPages: bitmaps.count(), dirtyPages, trackers, sinceMs },
      pagesWhenStopped: this.#pagesWhenStopped(dirtyPages),
      harvestMs: end - start,
    };
  }

  async #harvest(
    bitmaps: DirtyBitmaps,
    before: Abandoned | undefined,
  ): Promise<{ readonly start: number; readonly sinceMs: number }> {
    // This harvest ORs into the same bitmaps: the bits of an abandoned harvest are in no others.
    if (before !== undefined) await before.work.catch(() => {});
    else bitmaps.clearAll();
    const start = this.#clock.now();
    const sinceMs = start - this.#lastEnd;
    await this.#tracker.harvest(bitmaps);
    const owed = this.#owed;
    this.#owed = undefined;
    if (owed !== undefined) bitmaps.or(owed);
    return { start, sinceMs };
  }

  #pagesWhenStopped(dirtyPages: number): number {
    if (!this.#tracker.owesWhenStopped) return dirtyPages;
    this.#stopped ??= new DirtyBitmaps(this.#memory);
    this.#stopped.clearAll();
    this.#tracker.whenStopped(this.#stopped);
    this.#stopped.or(this.#queue.owed);
    return this.#stopped.count();
  }
}

interface Abandoned {
  readonly bitmaps: DirtyBitmaps;
  readonly work: Promise<unknown>;
}
