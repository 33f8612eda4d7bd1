/** A page of a RAM block, and how many follow: what a source hands over. */
export interface PagePlace {
  block: number;
  page: number;
}

/**
 * Where missing pages come from, on the thread that puts them into guest memory: a snapshot's file, a channel to the source's VM. It is
 * made there from a `ThreadRecipe`, and each thread has one of its own.
 *
 * The thread calls `request` for each page that somebody waits for, and `take` until it has nothing more; it then sleeps until there is
 * another fault, or until `descriptor` can be read. None of the calls may wait for longer than a read takes, and none may touch guest
 * memory: a page of it that is missing would be waited for by the thread that is to bring it.
 *
 * @example
 * // a source that answers at once
 * let asked: PagePlace | undefined;
 * const source: PageSource = {
 *   request(block, page) { asked = { block, page }; },
 *   take(into, place) {
 *     if (asked === undefined) return 0;
 *     Object.assign(place, asked);
 *     asked = undefined;
 *     into.fill(7, 0, 4096);
 *     return 1;
 *   },
 *   close() {},
 * };
 */
export interface PageSource {
  /**
   * Asks for `pageCount` pages, at most as many as the `into` of `take` has room for. Pages come in any order, and may come unasked.
   */
  request(block: number, page: number, pageCount: number): void;
  /**
   * Hands over pages that have come: their bytes are put into the beginning of `into`, and `place` says which the first is. They are whole
   * and checked: the guest sees them as they are.
   *
   * @returns how many, one after the other; 0 when nothing has come
   * @throws when a page cannot be had, after `place` was set to it: it stays missing, and is not asked for again
   */
  take(into: Uint8Array, place: PagePlace): number;
  /** A descriptor that can be read once `take` has something; undefined for a source that answers each request at once. */
  readonly descriptor?: number | undefined;
  /** Called once the thread serves, before it waits for the first fault: for work that need not delay the guest's start. */
  warmUp?(): void;
  /**
   * Called by the loading thread when it has all pages: the last checks, of what no page depends on. Throws when what the pages were
   * checked against is found to be damaged.
   */
  finish?(): void;
  /** Gives back what the source holds. Called once, on its own thread, when nothing is under way. */
  close(): void;
}
