import { DirtyBitmaps, type DirtyTracker, type GuestMemory } from '@godwit/core';
import { Observable } from 'rxjs';

/** The pages that became dirty in one interval. */
export interface DirtySample {
  /** One for each block of the memory; borrowed until the next sample is emitted. */
  readonly bitmaps: DirtyBitmaps;
  readonly dirtyPages: number;
  /** The time since the sample before, or since the start. Milliseconds. */
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
 * The Observable is cold, and a tracker runs for one subscriber at a time (use `share()` for more). Harvests do not overlap,
 * however long they take. The stream ends with an error when the tracker fails.
 *
 * @example
 * dirtySamples(tracker, memory, { everyMs: 500 }).pipe(dirtyRate()).subscribe(({ pagesPerSecond }) => console.log(pagesPerSecond));
 */
export function dirtySamples(
  tracker: DirtyTracker,
  memory: GuestMemory,
  options: DirtySamplesOptions = {},
): Observable<DirtySample> {
  const { everyMs = 100 } = options;
  return new Observable((subscriber) => {
    let timer: NodeJS.Timeout | undefined;
    let working: Promise<void> = Promise.resolve();
    // Two sets are used in turn, so that the borrowed sample does not change while the next one is made.
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
      // The tracker is stopped after the harvest under way, if there is one.
      void working.then(() => tracker.stop()).catch(() => {});
    };
  });
}
