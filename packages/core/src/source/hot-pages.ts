import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory } from '../memory/guest-memory.js';

/** A page is hot when it was dirtied in each of so many rounds in a row. */
const ROUNDS = 3;

/** Fewer hot pages than this share of a round are not worth it. */
const LEAST_SHARE = 0.02;

/**
 * Finds the pages that are not worth sending in a round, since the guest writes them again before it ends: those that were dirtied in
 * each of the last three rounds. They stay owed, and are sent as soon as a round passes in which they were not written, or with the guest
 * paused.
 *
 * It keeps the harvests of three rounds and the pages that wait: 4 bits for each page of RAM, 128 MiB for a TiB. Its time grows with the
 * pages that were dirty.
 */
export class HotPages {
  readonly #memory: GuestMemory;
  /** What was dirtied in the last rounds, oldest first. */
  readonly #rounds: DirtyBitmaps[] = [];
  #deferred: DirtyBitmaps | undefined;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  /** Takes what a round has found to be dirtied since the one before it. */
  add(dirtied: DirtyBitmaps): void {
    const bitmaps =
      this.#rounds.length < ROUNDS ? new DirtyBitmaps(this.#memory) : (this.#rounds.shift() as DirtyBitmaps);
    bitmaps.clearAll();
    bitmaps.or(dirtied);
    this.#rounds.push(bitmaps);
  }

  /** Moves the hot ones of `dirty` out of it, and returns them, or `undefined` when there are too few. Valid until the next call. */
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
