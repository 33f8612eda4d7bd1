import type { CaseSeries } from './all-cases.js';
import type { CaseResult } from './case-messages.js';

/** Runs that end before their fault strikes: after this many in a row, later places will not be reached either. */
export const MISSES = 2;

/** A case that somebody runs now. */
export interface HandedOut {
  readonly name: string;
  readonly series: number;
  readonly n: number;
}

/** A series that is over. */
export interface SeriesEnd {
  readonly name: string;
  /** How often each ending came, of the cases whose fault struck. */
  readonly endings: ReadonlyMap<string, number>;
  /** Printed instead of the endings, by cases that tell figures of their own. */
  readonly summaries: readonly string[];
}

interface Progress {
  readonly series: CaseSeries;
  readonly results: (CaseResult | undefined)[];
  /** The number of the case that is handed out next. */
  next: number;
  /** Cases before this one have been looked at, in order. */
  seen: number;
  misses: number;
  over: boolean;
}

/**
 * Shares cases out among any number of takers, and ends each series where it would have ended one case after the other.
 *
 * A series without a known end is never further ahead than `MISSES` cases beyond the last one that struck. No case is run
 * that would not have been, and several such series are under way at a time. The others fill in where nobody would
 * have anything to do.
 */
export class CaseQueue {
  readonly #all: readonly Progress[];
  readonly #order: readonly number[];
  #told = 0;

  constructor(series: readonly CaseSeries[]) {
    this.#all = series.map((one) => ({
      series: one,
      results: [],
      next: 0,
      seen: 0,
      misses: 0,
      over: one.at(0) === undefined,
    }));
    this.#order = [...series.keys()].sort((a, b) => rank(series[a]) - rank(series[b]) || a - b);
  }

  /** A case to run now; `undefined` when there is none, or none before more results have come. */
  next(): HandedOut | undefined {
    for (const index of this.#order) {
      const progress = this.#all[index] as Progress;
      const { series, next } = progress;
      if (progress.over || (series.untilNotStruck && next >= lastStruck(progress) + 1 + MISSES)) continue;
      const name = series.at(next);
      if (name === undefined) continue;
      progress.next++;
      return { name, series: index, n: next };
    }
    return undefined;
  }

  /** Takes the result of a case that was handed out. */
  settle({ series, n }: HandedOut, result: CaseResult): void {
    const progress = this.#all[series] as Progress;
    progress.results[n] = result;
    for (let seen = progress.results[progress.seen]; seen !== undefined; seen = progress.results[progress.seen]) {
      progress.misses = seen.struck ? 0 : progress.misses + 1;
      progress.seen++;
    }
    progress.over = progress.series.untilNotStruck
      ? progress.misses >= MISSES
      : progress.seen === progress.next && progress.series.at(progress.next) === undefined;
  }

  get over(): boolean {
    return this.#all.every(({ over }) => over);
  }

  /** Series that have ended and were not told of yet, in the order of the plan: one waits for those before it. */
  *ended(): Generator<SeriesEnd> {
    for (let one = this.#all[this.#told]; one?.over === true; one = this.#all[this.#told]) {
      this.#told++;
      const endings = new Map<string, number>();
      for (const result of one.results) {
        if (result?.struck === true) endings.set(result.ending, (endings.get(result.ending) ?? 0) + 1);
      }
      const summaries = one.results.flatMap((result) => result?.summary ?? []);
      yield { name: one.series.name, endings, summaries };
    }
  }
}

/** A single case may take a minute and comes first; what can fill in comes last. */
function rank(series: CaseSeries | undefined): number {
  if (series === undefined || series.at(1) === undefined) return 0;
  return series.untilNotStruck ? 1 : 2;
}

function lastStruck({ results }: Progress): number {
  return results.findLastIndex((result) => result?.struck === true);
}
