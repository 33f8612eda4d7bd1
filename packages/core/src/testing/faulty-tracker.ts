import { checkOptions } from '../argument.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { DirtyTracker } from '../tracker/dirty-tracker.js';

/** When a `FaultyTracker` fails. */
export interface TrackerFaults {
  /** Never reports this page. */
  readonly blindTo?: { readonly blockIndex: number; readonly page: number };
  /** Reports nothing from this harvest on (1 is the first). */
  readonly nothingFrom?: number;
  /** Loses the bits of this harvest. */
  readonly loseHarvest?: number;
  /** Throws at this harvest. */
  readonly failHarvest?: number;
  /** Throws when started. */
  readonly failStart?: boolean;
  /** Throws at this call of `rearm`, after it has lost everything that was written in the range. */
  readonly failRearm?: number;
  /** Throws when stopped. */
  readonly failStop?: boolean;
  /** Re-arms each range only at the next harvest, which is too late: the engine has read the pages before. */
  readonly rearmLate?: boolean;
  /** Called with the number of each harvest, before it reads the log. */
  readonly onHarvest?: (harvest: number) => void;
}

/**
 * A tracker that loses writes or fails on purpose, with which embedders can test that their verification notices.
 *
 * @example
 * vm.trackers = [new FaultyTracker(vm.software, vm.memory, { loseHarvest: 2 })]; // `verify` has to notice
 */
export class FaultyTracker implements DirtyTracker {
  readonly name: string;
  readonly blindSpots?: string;
  readonly exact?: boolean;
  /** Calls of `start` that succeeded, and calls of `stop`. */
  starts = 0;
  stops = 0;
  readonly #late: (() => void)[] = [];
  readonly #inner: DirtyTracker;
  readonly #memory: GuestMemory;
  readonly #faults: TrackerFaults;
  #harvests = 0;
  #rearms = 0;
  readonly rearm?: (blockIndex: number, firstPage: number, pageCount: number) => void;

  constructor(inner: DirtyTracker, memory: GuestMemory, faults: TrackerFaults) {
    checkOptions<TrackerFaults>('FaultyTracker', faults, {
      blindTo: true,
      nothingFrom: true,
      loseHarvest: true,
      failHarvest: true,
      failStart: true,
      failRearm: true,
      failStop: true,
      rearmLate: true,
      onHarvest: true,
    });
    this.name = `faulty ${inner.name}`;
    if (inner.blindSpots !== undefined) this.blindSpots = inner.blindSpots;
    if (inner.exact !== undefined) this.exact = inner.exact;
    this.#inner = inner;
    this.#memory = memory;
    this.#faults = faults;
    if (inner.rearm !== undefined || faults.failRearm !== undefined) {
      this.rearm = (blockIndex, firstPage, pageCount) => {
        if (++this.#rearms === faults.failRearm) {
          // Writes that were not reported yet are lost too.
          void inner.harvest(new DirtyBitmaps(memory));
          inner.rearm?.(blockIndex, firstPage, pageCount);
          throw new Error('re-arm failed on purpose');
        }
        const rearm = () => inner.rearm?.(blockIndex, firstPage, pageCount);
        if (faults.rearmLate) this.#late.push(rearm);
        else rearm();
      };
    }
  }

  /** The number of harvests. */
  get harvests(): number {
    return this.#harvests;
  }

  /** Starts the tracker, or fails as configured. */
  async start(): Promise<void> {
    if (this.#faults.failStart) throw new Error('start failed on purpose');
    await this.#inner.start();
    this.starts++;
  }

  async harvest(into: DirtyBitmaps): Promise<void> {
    const at = ++this.#harvests;
    this.#faults.onHarvest?.(at);
    for (const rearm of this.#late.splice(0)) rearm();
    const { blindTo, failHarvest, loseHarvest, nothingFrom } = this.#faults;
    if (at === failHarvest) throw new Error('harvest failed on purpose');
    const own = new DirtyBitmaps(this.#memory);
    await this.#inner.harvest(own);
    if (at === loseHarvest || (nothingFrom !== undefined && at >= nothingFrom)) return;
    if (blindTo !== undefined) own.at(blindTo.blockIndex).clearRange(blindTo.page, 1);
    into.or(own);
  }

  async stop(): Promise<void> {
    this.stops++;
    await this.#inner.stop();
    if (this.#faults.failStop) throw new Error('stop failed on purpose');
  }
}
