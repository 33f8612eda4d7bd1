import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory } from '../memory/guest-memory.js';

/** A page is hot when it was dirtied in each of this many rounds in a row. */
const ROUNDS = 3;

/** Hot pages are not held back when they are fewer than this share of a round. */
const LEAST_SHARE = 0.02;

/**
 * Finds the pages that are not worth sending in a round, since the guest writes them again before it ends: those that were dirtied in
 * each of the last three rounds. They stay owed, and are sent as soon as a round passes in which they were not written, or with the guest
 * paused.
 *
 * The harvests of three rounds and the pages that wait take 4 bits for each page of RAM, 128 MiB for a TiB. The time of each call grows
 * with the number of dirty pages.
 */
export class HotPages {
  readonly #memory: GuestMemory;
  /** The pages that were dirtied in each of the last rounds, oldest first. */
  readonly #rounds: DirtyBitmaps[] = [];
  #deferred: DirtyBitmaps | undefined;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  /** Takes the pages that were dirtied between the harvest before and this one. */
  add(dirtied: DirtyBitmaps): void {
    const bitmaps =
      this.#rounds.length < ROUNDS ? new DirtyBitmaps(this.#memory) : (this.#rounds.shift() as DirtyBitmaps);
    bitmaps.clearAll();
    bitmaps.or(dirtied);
    this.#rounds.push(bitmaps);
  }

  /**
   * Moves the hot pages out of `dirty`, and returns them, or `undefined` when there are too few. The result is valid until the next call.
   */
  takeFrom(
    dirty: DirtyBitmaps,
    dirtyPages: number,
  ): { readonly bitmaps: DirtyBitmaps; readonly pages: number } | undefined {
    if (this.#rounds.length < ROUNDS) return undefined;
    this.#deferred ??= new DirtyBitmaps(this.#memory);
    const hot = this.#deferred;
    hot.clearAll();
    hot.or(dirty);
    for (const round of this.#rounds) hot.and(round);
    const pages = hot.count();
    if (pages < LEAST_SHARE * dirtyPages || pages === 0) return undefined;
    dirty.andNot(hot);
    return { bitmaps: hot, pages };
  }
}
