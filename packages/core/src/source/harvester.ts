import type { Clock } from '../clock.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { TrackerHarvest } from '../round-record.js';
import type { TrackerUnion } from '../tracker/tracker-union.js';

export interface Harvest {
  readonly bitmaps: DirtyBitmaps;
  readonly dirtyPages: number;
  readonly trackers: readonly TrackerHarvest[];
  readonly harvestMs: number;
  /** Time since the harvest before this one ended: what the dirty rate is counted over. */
  readonly sinceMs: number;
}

/**
 * Takes dirty bitmaps from the tracker into two sets of bitmaps in turn: one is being sent and belongs to the
 * destination until it is acknowledged, the other collects what the guest writes meanwhile.
 */
export class Harvester {
  readonly #tracker: TrackerUnion;
  readonly #clock: Clock;
  readonly #spare: DirtyBitmaps[];
  #lastEnd: number;

  constructor(memory: GuestMemory, tracker: TrackerUnion, clock: Clock) {
    this.#tracker = tracker;
    this.#clock = clock;
    this.#spare = [new DirtyBitmaps(memory), new DirtyBitmaps(memory)];
    this.#lastEnd = clock.now();
  }

  /** Bitmaps that are free now, cleared. */
  take(): DirtyBitmaps {
    const bitmaps = this.#spare.pop();
    if (bitmaps === undefined) throw new Error('both sets of dirty bitmaps are in use');
    bitmaps.clearAll();
    return bitmaps;
  }

  /** The destination has acknowledged every page of these: only now are the bits forgotten. */
  release(bitmaps: DirtyBitmaps): void {
    this.#spare.push(bitmaps);
  }

  /** ORs everything written since the last harvest into `bitmaps` (a free set when omitted). */
  async harvest(bitmaps: DirtyBitmaps = this.take()): Promise<Harvest> {
    const start = this.#clock.now();
    const sinceMs = start - this.#lastEnd;
    await this.#tracker.harvest(bitmaps);
    const end = this.#clock.now();
    this.#lastEnd = end;
    const { harvests: trackers } = this.#tracker;
    return { bitmaps, dirtyPages: bitmaps.count(), trackers, harvestMs: end - start, sinceMs };
  }
}
