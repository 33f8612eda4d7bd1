import type { CaseSeries } from './all-cases.js';
import type { CaseResult } from './case-messages.js';

/** After this many runs in a row that end before their fault strikes, the series ends: later places are not reached either. */
export const MISSES = 2;

/** A case that a worker runs. */
export interface HandedOut {
  readonly name: string;
  readonly series: number;
  readonly n: number;
}

/** The results of a series that has ended. */
export interface SeriesEnd {
  readonly name: string;
  /** Number of cases per ending, of the cases whose fault struck. */
  readonly endings: ReadonlyMap<string, number>;
  /** Summaries of cases, printed instead of the endings. */
  readonly summaries: readonly string[];
}

interface Progress {
  readonly series: CaseSeries;
  readonly results: (CaseResult | undefined)[];
  /** The number of the case that is handed out next. */
  next: number;
  /** The results of the cases before this number have been counted, in order. */
  seen: number;
  misses: number;
  over: boolean;
}

/**
 * Hands out cases to any number of workers. Each series ends at the case at which it would end if its cases ran one after the other.
 *
 * Of a series of unknown length at most `MISSES` cases beyond the last one that struck are handed out, so that no case runs in vain.
 * Cases of several such series are therefore handed out at a time, and cases of series of known length when there are no others.
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

  /** Returns the next case to run; `undefined` if there is none, or none before further results. */
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

  /** Yields each series that has ended, once, in the order of the plan: a series is held until those before it have ended. */
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

/** Order of handing out: series of a single case first, since it may take a minute; series of a known length last. */
function rank(series: CaseSeries | undefined): number {
  if (series === undefined || series.at(1) === undefined) return 0;
  return series.untilNotStruck ? 1 : 2;
}

function lastStruck({ results }: Progress): number {
  return results.findLastIndex((result) => result?.struck === true);
}
