import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory } from '../memory/guest-memory.js';

/** How many distinct pages a guest has written in windows of one length. */
export interface WorkingSetPoint {
  /** The mean length of the windows, in milliseconds. */
  readonly windowMs: number;
  /** The mean number of distinct pages that were written in such a window. */
  readonly pages: number;
  /** The smallest and the largest number of pages in one window. */
  readonly fewest: number;
  readonly most: number;
  /** Number of windows. */
  readonly windows: number;
}

/** Windows of one length. */
interface Level {
  /** The last window, while the next one has not ended. */
  waiting: { readonly bitmaps: DirtyBitmaps; readonly ms: number } | undefined;
  ms: number;
  pages: number;
  fewest: number;
  most: number;
  windows: number;
}

/**
 * Counts distinct pages over windows of one, two, four, ... intervals, as harvests deliver them: two neighbouring windows of one length
 * are a window of twice the length, whose pages are the union of theirs. One set of bitmaps is kept for each length, and each interval
 * is counted about twice.
 *
 * Convergence depends on the distinct pages per window, and not on a rate: a guest that rewrites 10,000 pages all the time has 10,000
 * dirty pages after a second and after a minute.
 */
export class WorkingSet {
  readonly #memory: GuestMemory;
  readonly #levels: Level[] = [];
  readonly #spare: DirtyBitmaps[] = [];

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  /** Returns cleared bitmaps for the next interval. */
  take(): DirtyBitmaps {
    const bitmaps = this.#spare.pop() ?? new DirtyBitmaps(this.#memory);
    bitmaps.clearAll();
    return bitmaps;
  }

  /** Adds an interval of `ms` milliseconds in which these pages were written. The bitmaps are the working set's from now on. */
  add(bitmaps: DirtyBitmaps, ms: number): void {
    let window = { bitmaps, ms };
    for (let index = 0; ; index++) {
      this.#levels[index] ??= { waiting: undefined, ms: 0, pages: 0, fewest: Infinity, most: 0, windows: 0 };
      const level = this.#levels[index] as Level;
      const pages = window.bitmaps.count();
      level.ms += window.ms;
      level.pages += pages;
      level.fewest = Math.min(level.fewest, pages);
      level.most = Math.max(level.most, pages);
      level.windows++;
      const { waiting } = level;
      if (waiting === undefined) {
        level.waiting = window;
        return;
      }
      level.waiting = undefined;
      waiting.bitmaps.or(window.bitmaps);
      this.#spare.push(window.bitmaps);
      window = { bitmaps: waiting.bitmaps, ms: waiting.ms + window.ms };
    }
  }

  /** The points so far, the shortest windows first. */
  get points(): readonly WorkingSetPoint[] {
    return this.#levels.map(({ ms, pages, fewest, most, windows }) => ({
      windowMs: ms / windows,
      pages: pages / windows,
      fewest,
      most,
      windows,
    }));
  }
}
