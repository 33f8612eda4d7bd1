/** Streams that are followed at once: one for each thread that writes in order, as a rule. */
const STREAMS = 16;
/** Most pages of one fault: their copies take about as long as the fault itself. */
const MOST_PAGES = 32;

/**
 * Finds threads that write page after page, so that the pages in front of them are copied with the one that is waited for: a fault for each
 * of them takes longer. The first fault behind a run of pages that were copied doubles the run.
 */
export class WriteStreams {
  readonly #blocks = new Int32Array(STREAMS).fill(-1);
  /** The page behind the last run of each stream, and how many it had. */
  readonly #next = new Float64Array(STREAMS);
  readonly #pages = new Int32Array(STREAMS);
  #oldest = 0;

  /** How many pages are to be copied for a fault on this one, itself included. */
  pagesAt(block: number, page: number): number {
    for (let i = 0; i < STREAMS; i++) {
      if (this.#blocks[i] !== block || this.#next[i] !== page) continue;
      return this.#set(i, block, page, Math.min(MOST_PAGES, (this.#pages[i] as number) * 2));
    }
    const i = this.#oldest;
    this.#oldest = (i + 1) % STREAMS;
    return this.#set(i, block, page, 1);
  }

  #set(i: number, block: number, page: number, pages: number): number {
    this.#blocks[i] = block;
    this.#next[i] = page + pages;
    this.#pages[i] = pages;
    return pages;
  }
}
