import { checkOptions, DirtyBitmaps, type DirtyTracker, type GuestMemory, nonNegative } from '@godwit/core';
import { Observable } from 'rxjs';

/** What became dirty in one interval. */
export interface DirtySample {
  /** One for each block of the memory; lent until the next sample is emitted. */
  readonly bitmaps: DirtyBitmaps;
  readonly dirtyPages: number;
  /** Since the sample before, or the start. */
  readonly intervalMs: number;
}

/** Options of `dirtySamples`. */
export interface DirtySamplesOptions {
  /** Milliseconds from the end of one harvest to the beginning of the next; default 100. */
  readonly everyMs?: number;
}

/**
 * Dirty bitmaps as a stream, without a migration: subscribing starts the tracker, unsubscribing stops it.
 *
 * ```ts
 * dirtySamples(tracker, memory, { everyMs: 100 }).pipe(dirtyRate()).subscribe(console.log);
 * ```
 *
 * Cold; a tracker runs for one subscriber at a time (`share()` it for more). Harvests do not overlap, however long they take.
 * Ends with an error when the tracker fails.
 *
 * @example
 * dirtySamples(tracker, memory, { everyMs: 500 }).pipe(dirtyRate()).subscribe(({ pagesPerSecond }) => console.log(pagesPerSecond));
 */
export function dirtySamples(
  tracker: DirtyTracker,
  memory: GuestMemory,
  options: DirtySamplesOptions = {},
): Observable<DirtySample> {
  checkOptions<DirtySamplesOptions>('dirtySamples', options, { everyMs: true });
  const everyMs = nonNegative('everyMs', options.everyMs ?? 100);
  return new Observable((subscriber) => {
    let timer: NodeJS.Timeout | undefined;
    let working: Promise<void> = Promise.resolve();
    // In turn, so that what one subscriber holds does not change under it while the next sample is made.
    const sets = [new DirtyBitmaps(memory), new DirtyBitmaps(memory)] as const;
    let turn = 0;
    let last = 0;

    const harvest = async (): Promise<void> => {
      const bitmaps = sets[turn++ % 2] as DirtyBitmaps;
      bitmaps.clearAll();
      await tracker.harvest(bitmaps);
      const now = performance.now();
      const intervalMs = now - last;
      last = now;
      subscriber.next({ bitmaps, dirtyPages: bitmaps.count(), intervalMs });
    };
    const next = (step: () => Promise<void>): void => {
      working = step().then(
        () => {
          if (!subscriber.closed) timer = setTimeout(() => next(harvest), everyMs);
        },
        (error: unknown) => subscriber.error(error),
      );
    };
    next(async () => {
      await tracker.start();
      last = performance.now();
    });

    return () => {
      clearTimeout(timer);
      // After the harvest under way, if there is one.
      void working.then(() => tracker.stop()).catch(() => {});
    };
  });
}
