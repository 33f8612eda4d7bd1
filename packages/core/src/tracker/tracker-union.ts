import { GodwitError } from '../errors.js';
import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { DirtyTracker } from './dirty-tracker.js';

/**
 * Several trackers as one: every writer counts, so their bitmaps are ORed.
 *
 * A tracker that fails does not know what was written: then **everything** is dirty, and `onFailure` hears about it.
 * Nothing is retried silently and nothing is ever assumed clean.
 */
export class TrackerUnion implements DirtyTracker {
  readonly name: string;
  readonly blindSpots?: string;
  readonly #trackers: readonly DirtyTracker[];
  readonly #started: DirtyTracker[] = [];
  readonly #onFailure: (tracker: DirtyTracker, error: unknown) => void;
  /** A failed re-arm is remembered until the next harvest can report it. */
  #lost = false;
  #certain = true;
  #failed = false;

  constructor(
    trackers: readonly DirtyTracker[],
    onFailure: (tracker: DirtyTracker, error: unknown) => void = () => {},
  ) {
    this.name = trackers.map((tracker) => tracker.name).join('+') || 'none';
    const blind = trackers.flatMap((tracker) => (tracker.blindSpots ? [`${tracker.name}: ${tracker.blindSpots}`] : []));
    if (blind.length > 0) this.blindSpots = blind.join('; ');
    this.#trackers = trackers;
    this.#onFailure = onFailure;
  }

  /** True when every page of the last harvest was really written, as far as trackers can know. */
  get certain(): boolean {
    return this.#certain;
  }

  /** True when the last harvest had to report every page because a tracker had failed. */
  get failed(): boolean {
    return this.#failed;
  }

  /** Starts all, or none: when one cannot start, those before it are stopped and the error is thrown. */
  async start(): Promise<void> {
    for (const tracker of this.#trackers) {
      try {
        await tracker.start();
        this.#started.push(tracker);
      } catch (error) {
        await this.stop();
        throw GodwitError.wrap(
          error,
          'GODWIT_TRACKER_FAILED',
          `the dirty tracker "${tracker.name}" could not be started`,
        );
      }
    }
  }

  async harvest(into: DirtyBitmaps): Promise<void> {
    for (const tracker of this.#trackers) {
      try {
        await tracker.harvest(into);
      } catch (error) {
        this.#onFailure(tracker, error);
        this.#lost = true;
      }
    }
    this.#certain = !this.#lost && this.#trackers.every((tracker) => tracker.exact !== false);
    this.#failed = this.#lost;
    if (this.#lost) {
      into.setAll();
      this.#lost = false;
    }
  }

  rearm(blockIndex: number, firstPage: number, pageCount: number): void {
    for (const tracker of this.#trackers) {
      if (tracker.rearm === undefined) continue;
      try {
        tracker.rearm(blockIndex, firstPage, pageCount);
      } catch (error) {
        this.#onFailure(tracker, error);
        this.#lost = true;
      }
    }
  }

  /** Stops every tracker that was started, even when some fail; failures are reported, not thrown. */
  async stop(): Promise<void> {
    for (const tracker of this.#started.splice(0).reverse()) {
      try {
        await tracker.stop();
      } catch (error) {
        this.#onFailure(tracker, error);
      }
    }
  }
}
