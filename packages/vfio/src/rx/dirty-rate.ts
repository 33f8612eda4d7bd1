import { map, type OperatorFunction } from 'rxjs';
import type { DirtySample } from './dirty-samples.js';

/** How fast pages become dirty, over a window of samples. */
export interface DirtyRate {
  readonly pagesPerSecond: number;
  /** The average rate, in which recent samples weigh more. */
  readonly smoothedPagesPerSecond: number;
}

/**
 * Pages that become dirty per second.
 *
 * A page that is written twice in an interval counts once, so that the rate falls as intervals grow: compare only rates over
 * equal intervals.
 *
 * @param weight of the newest sample in the average, 0 to 1; default 0.25
 * @example
 * dirtySamples(tracker, memory, { everyMs: 100 })
 *   .pipe(dirtyRate())
 *   .subscribe(({ pagesPerSecond }) => console.log(pagesPerSecond));
 */
export function dirtyRate(weight = 0.25): OperatorFunction<DirtySample, DirtyRate> {
  return (samples) => {
    let smoothed: number | undefined;
    return samples.pipe(
      map(({ dirtyPages, intervalMs }) => {
        const pagesPerSecond = (dirtyPages / Math.max(intervalMs, 0.001)) * 1000;
        smoothed = smoothed === undefined ? pagesPerSecond : smoothed + weight * (pagesPerSecond - smoothed);
        return { pagesPerSecond, smoothedPagesPerSecond: smoothed };
      }),
    );
  };
}
