import type { RoundRecord } from '../round-record.js';

/** Two harvests show the size of the working set when the times that they cover differ by at least this factor. */
const APART = 1.25;

/**
 * The largest working set that is assumed, in multiples of all pages: with such a set pages become dirty at a steady rate, as in a sweep.
 */
const MOST_SETS = 64;

/** Halvings of the interval in which the working set is searched for: its error is less than a thousandth. */
const HALVINGS = 24;

interface Harvested {
  readonly ms: number;
  readonly pages: number;
}

/** How the number of dirty pages grows with time; all growths agree with the last harvest. */
export interface Growth {
  /** Pages that are dirty `ms` after a harvest. */
  readonly pages: (ms: number) => number;
}

export interface Growths {
  readonly least: Growth;
  readonly likely: Growth;
  readonly most: Growth;
  readonly hot?: Growth;
}

/** A small hot set is assumed to be `HOT_SHARE` of the pages of a first harvest, and to be dirtied in one `HOT_TIMES`th of its time. */
const HOT_SHARE = 0.7;
const HOT_TIMES = 20;

/**
 * Estimates how many pages a guest dirties in a given time, from its harvests. Pages that are written again count once, so that a short
 * round finds more pages per second than a long one: writes at random to a working set of `n` pages dirty `n * (1 - e^(-wt/n))` of them
 * in time `t`. Two harvests over different times show `n` and `w`; one shows `w` for a given `n`.
 */
export class DirtyCurve {
  #last: Harvested | undefined;
  #before: Harvested | undefined;
  /** The most pages that a round had, which bounds the working set. */
  #mostPages = 1;

  /** Takes the harvest after a round of pre-copy. */
  add({ dirtyPages, deferredPages, newlyDirtyPages, dirtyPagesPerSecond, totalMs }: RoundRecord): void {
    const fresh = newlyDirtyPages > 0 && dirtyPagesPerSecond > 0 && deferredPages === 0;
    const ms = fresh ? (newlyDirtyPages / dirtyPagesPerSecond) * 1000 : totalMs;
    const pages = (dirtyPagesPerSecond * ms) / 1000;
    if (ms <= 0) return;
    this.#mostPages = Math.max(this.#mostPages, dirtyPages, pages);
    const last = this.#last;
    if (last !== undefined && ratio(last.ms, ms) >= APART) this.#before = last;
    this.#last = { ms, pages };
  }

  /** Pages of the last harvest; `undefined` before the first. */
  get lastPages(): number | undefined {
    return this.#last?.pages;
  }

  /**
   * The likely growth, and the growths with the fewest and the most pages in a time shorter than that of the last harvest. After only one
   * harvest also `hot`, for which most of the pages are a small set that is dirtied again almost at once.
   */
  growth(): Growths | undefined {
    const last = this.#last;
    if (last === undefined) return undefined;
    const before = this.#before;
    const all = this.#mostPages;
    const noise = 0.05 + 1.5 / Math.sqrt(last.pages + 1);
    // One harvest does not distinguish a sweep over all pages, whose rate is steady, from random writes to a small set.
    const fitted = before === undefined ? 1.3 * all : workingSet(last, before, MOST_SETS * all);
    const smallest = before === undefined ? Math.min(all, (2 * last.pages + all) / 3) : Math.min(all, fitted) / 1.5;
    return {
      least: growth(last, MOST_SETS * all, 1 - noise),
      likely: growth(last, fitted, 1),
      most: growth(last, Math.max(last.pages * 1.02, smallest), 1 + noise),
      ...(before === undefined && { hot: { pages: (ms) => (ms > last.ms / HOT_TIMES ? HOT_SHARE * last.pages : 0) } }),
    };
  }
}

function growth({ ms, pages }: Harvested, set: number, scale: number): Growth {
  return { pages: (time) => Math.min(set, scale * grown(pages, time / ms, set)) };
}

/** Pages that are dirty after `times` the time in which `pages` of a working set of `set` were dirtied. */
function grown(pages: number, times: number, set: number): number {
  if (set <= pages) return times > 0 ? pages : 0;
  return set * (1 - (1 - pages / set) ** times);
}

/** The size of the working set, at most `most` pages, that fits both harvests. */
function workingSet(last: Harvested, before: Harvested, most: number): number {
  const times = before.ms / last.ms;
  let low = Math.max(last.pages, before.pages) + 1;
  let high = Math.max(most, low);
  // With a larger set the longer harvest is expected to have more pages, given the shorter one; given the longer one, the shorter is
  // expected to have fewer.
  const larger = (set: number) =>
    times > 1 ? grown(last.pages, times, set) < before.pages : grown(last.pages, times, set) > before.pages;
  for (let i = 0; i < HALVINGS; i++) {
    const middle = (low + high) / 2;
    if (larger(middle)) low = middle;
    else high = middle;
  }
  return high;
}

function ratio(a: number, b: number): number {
  return a > b ? a / b : b / a;
}
