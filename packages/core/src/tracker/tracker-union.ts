import { GodwitError } from '../errors.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { RamBlock } from '../memory/guest-memory.js';
import type { Rearm } from '../queue/page-taker.js';
import type { TrackerHarvest } from '../round-record.js';
import type { ThreadRecipe } from '../thread-recipe.js';
import type { DirtyTracker } from './dirty-tracker.js';

/** How another thread re-arms the pages of one tracker. */
export interface RearmRecipe {
  /** The tracker's index in the list of trackers, which a failure names. */
  readonly tracker: number;
  readonly recipe: ThreadRecipe;
}

/** The memory that the trackers of a `TrackerUnion` watch. */
export interface WatchedMemory {
  readonly blocks: readonly Pick<RamBlock, 'shared' | 'readOnly'>[];
  /** Called once when an exact tracker reports a page of a read-only block: the page is sent again, like any other. */
  readonly onReadOnlyWritten?: (tracker: DirtyTracker, blockIndex: number) => void;
}

/**
 * Several trackers as one, whose bitmaps are ORed. Pages of shared blocks are left out, since they are never sent.
 *
 * When a tracker fails, the writes are not known: the next harvest reports **every** page, and `onFailure` is called. Nothing is retried
 * silently, and no page is assumed clean.
 *
 * @example
 * const all = new TrackerUnion(vm.trackers, (tracker, error) => console.error(tracker.name, error));
 */
export class TrackerUnion implements DirtyTracker {
  readonly name: string;
  readonly #trackers: readonly DirtyTracker[];
  readonly #started: DirtyTracker[] = [];
  readonly #onFailure: (tracker: DirtyTracker, error: unknown) => void;
  readonly #shared: readonly number[];
  readonly #readOnly: readonly number[];
  #onReadOnlyWritten: WatchedMemory['onReadOnlyWritten'];
  /** True after a tracker has failed, until a harvest has reported every page. */
  #lost = false;
  #over = false;
  #failed = false;
  #harvests: TrackerHarvest[] = [];
  /** The report of one tracker, before it is counted and ORed with the others. */
  #own: DirtyBitmaps | undefined;

  constructor(
    trackers: readonly DirtyTracker[],
    onFailure: (tracker: DirtyTracker, error: unknown) => void = () => {},
    { blocks, onReadOnlyWritten }: WatchedMemory = { blocks: [] },
  ) {
    this.name = trackers.map((tracker) => tracker.name).join('+') || 'none';
    this.#trackers = trackers;
    this.#onFailure = onFailure;
    this.#shared = [...blocks.keys()].filter((index) => blocks[index]?.shared === true);
    this.#readOnly = [...blocks.keys()].filter((index) => blocks[index]?.readOnly === true);
    this.#onReadOnlyWritten = onReadOnlyWritten;
  }

  /** The reports of the trackers at the last harvest, in their order. */
  get harvests(): readonly TrackerHarvest[] {
    return this.#harvests;
  }

  /** True when an exact tracker has reported a page at the last harvest. */
  get surelyWritten(): boolean {
    return this.#harvests.some(({ exact, failed, dirtyPages }) => exact && !failed && dirtyPages > 0);
  }

  /** True when the last harvest had to report every page because a tracker had failed. */
  get failed(): boolean {
    return this.#failed;
  }

  /** Starts all trackers or none: when one cannot start, those before it are stopped and the error is thrown. */
  async start(): Promise<void> {
    this.#over = false;
    for (const tracker of this.#trackers) {
      if (this.#over) return;
      try {
        await tracker.start();
        this.#started.push(tracker);
        // `stop` was called meanwhile: a tracker that has started since is stopped.
        if (this.#over) await this.stop();
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

  /** Whether a tracker has pages that it reports in any case once everything is stopped. */
  get owesWhenStopped(): boolean {
    return this.#trackers.some((tracker) => tracker.whenStopped !== undefined);
  }

  whenStopped(into: DirtyBitmaps): void {
    for (const tracker of this.#trackers) tracker.whenStopped?.(into);
    this.#leaveOutShared(into);
  }

  async harvest(into: DirtyBitmaps): Promise<void> {
    this.#own ??= new DirtyBitmaps(into);
    const harvests: TrackerHarvest[] = [];
    for (const tracker of this.#trackers) harvests.push(await this.#harvestOne(tracker, this.#own, into));
    this.#harvests = harvests;
    this.#failed = this.#lost;
    if (this.#lost) {
      into.setAll();
      this.#leaveOutShared(into);
      this.#lost = false;
    }
  }

  /** Re-arms these pages with every tracker that leaves re-arming to the engine. */
  readonly rearmPages: Rearm = (block, firstPage, pageCount, words) => {
    for (const [index, tracker] of this.#trackers.entries()) {
      try {
        if (tracker.rearmPages !== undefined) tracker.rearmPages(block, firstPage, pageCount, words);
        else tracker.rearm?.(block, firstPage, pageCount);
      } catch (error) {
        this.lost(index, error);
      }
    }
  };

  /**
   * For each tracker that leaves re-arming to the engine, its index in the list and the recipe for another thread. `undefined` when one
   * of them has no recipe: then only this thread can re-arm.
   */
  get rearmRecipes(): readonly RearmRecipe[] | undefined {
    const recipes: RearmRecipe[] = [];
    for (const [tracker, { rearm, rearmPages, rearmRecipe }] of this.#trackers.entries()) {
      if (rearmRecipe !== undefined) recipes.push({ tracker, recipe: rearmRecipe });
      else if (rearm !== undefined || rearmPages !== undefined) return undefined;
    }
    return recipes;
  }

  /** Notes that the tracker at this index has failed to re-arm pages, on any thread: the next harvest reports every page. */
  lost(index: number, error: unknown): void {
    this.#onFailure(this.#trackers[index] as DirtyTracker, error);
    this.#lost = true;
  }

  /** Stops every tracker that was started, even when some fail; failures are reported, not thrown. */
  async stop(): Promise<void> {
    this.#over = true;
    for (const tracker of this.#started.splice(0).reverse()) {
      try {
        await tracker.stop();
      } catch (error) {
        this.#onFailure(tracker, error);
      }
    }
  }

  async #harvestOne(tracker: DirtyTracker, own: DirtyBitmaps, into: DirtyBitmaps): Promise<TrackerHarvest> {
    own.clearAll();
    let failed = false;
    try {
      await tracker.harvest(own);
    } catch (error) {
      this.#onFailure(tracker, error);
      this.#lost = true;
      failed = true;
    }
    // A kernel that wrote the bitmap may have set bits past the last page.
    for (const bitmap of own.blocks) bitmap.maskTail();
    this.#leaveOutShared(own);
    this.#checkReadOnly(tracker, own);
    into.or(own);
    // `exact` is read after the harvest, since a tracker that had to guess pages is inexact for this harvest.
    const { name, exact = true, blindSpots } = tracker;
    const blind = blindSpots === undefined ? {} : { blindSpots };
    const vcpus = failed ? undefined : tracker.vcpus?.();
    return { name, dirtyPages: own.count(), exact, failed, ...blind, ...(vcpus === undefined ? {} : { vcpus }) };
  }

  #leaveOutShared(bitmaps: DirtyBitmaps): void {
    for (const index of this.#shared) bitmaps.at(index).clearAll();
  }

  #checkReadOnly(tracker: DirtyTracker, own: DirtyBitmaps): void {
    if (this.#onReadOnlyWritten === undefined || tracker.exact === false) return;
    const written = this.#readOnly.find((index) => !own.at(index).isEmpty());
    if (written === undefined) return;
    this.#onReadOnlyWritten(tracker, written);
    this.#onReadOnlyWritten = undefined;
  }
}
