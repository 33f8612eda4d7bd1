/** The place of the first page that a `PageSource` hands over. */
export interface PagePlace {
  block: number;
  page: number;
}

/**
 * Where missing pages come from, on the thread that puts them into guest memory: a snapshot's file, a channel to the source's VM. Each
 * such thread makes its own from a `ThreadRecipe`.
 *
 * The thread calls `request` for each page that is waited for, and `take` until it returns 0; then the thread sleeps until the next fault,
 * or until `descriptor` can be read. No call may wait for longer than a read takes, and none may touch guest memory: the thread would wait
 * for a missing page that only it can put there.
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
  /** Asks for `pageCount` pages, at most as many as fit into the `into` of `take`. Pages come in any order, and may come unasked. */
  request(block: number, page: number, pageCount: number): void;
  /**
   * Hands over pages that have come: writes their bytes to the beginning of `into`, and sets `place` to the first of them. The pages must
   * be whole and checked: the guest sees them as they are.
   *
   * @returns the number of consecutive pages; 0 when nothing has come
   * @throws when a page cannot be had, after `place` was set to it: that page stays missing, and is not requested again
   */
  take(into: Uint8Array, place: PagePlace): number;
  /** A descriptor that can be read once `take` has something; undefined for a source that answers each request at once. */
  readonly descriptor?: number | undefined;
  /** Called once when the thread serves, before it waits for the first fault: for work that need not delay the guest's start. */
  warmUp?(): void;
  /**
   * Called by the loading thread when it has all pages: makes the last checks, on which no single page depends. Throws when the data
   * against which pages were checked is damaged.
   */
  finish?(): void;
  /** Gives back what the source holds. Called once, on its own thread, when nothing is under way. */
  close(): void;
}
