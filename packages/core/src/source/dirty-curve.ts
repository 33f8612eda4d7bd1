import type { RoundRecord } from '../round-record.js';

/** Two harvests tell the working set when the times that they cover differ by this factor at least. */
const APART = 1.25;

/** A working set of this many times all pages dirties them at a steady rate, as a sweep does. */
const MOST_SETS = 64;

/** Halvings of the interval in which the working set is looked for: to a thousandth and better. */
const HALVINGS = 24;

interface Harvested {
  readonly ms: number;
  readonly pages: number;
}

/** How the number of dirty pages grows with time: three shapes that agree on the last harvest. */
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

/** A small hot set is this share of what a first harvest has found, and is dirtied in this part of the time. */
const HOT_SHARE = 0.7;
const HOT_TIMES = 20;

/**
 * How many pages a guest dirties in a time, as its harvests show. Pages that are written again count once, so that a short round finds
 * more pages per second than a long one: writes at random to a working set of `n` pages dirty `n * (1 - e^(-wt/n))` of them in time `t`.
 * Two harvests over different times show `n` and `w`; one shows `w` for a given `n`.
 */
export class DirtyCurve {
  #last: Harvested | undefined;
  #before: Harvested | undefined;
  /** Most pages that a round had: no working set is larger. */
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
   * The likely growth, and that with the fewest and with the most pages in a time shorter than that of the last harvest. After one
   * harvest also `hot`: most of what it found is a small set that is dirtied anew in no time.
   */
  growth(): Growths | undefined {
    const last = this.#last;
    if (last === undefined) return undefined;
    const before = this.#before;
    const all = this.#mostPages;
    const noise = 0.05 + 1.5 / Math.sqrt(last.pages + 1);
    // One harvest does not tell a sweep over all pages, which dirties as many in each second, from a small set that is written at random.
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

/** The working set, of at most `most` pages, with which both harvests agree. */
function workingSet(last: Harvested, before: Harvested, most: number): number {
  const times = before.ms / last.ms;
  let low = Math.max(last.pages, before.pages) + 1;
  let high = Math.max(most, low);
  // The longer harvest has the more pages, the larger the set is; with the roles changed it is the other way around.
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
