/** The number of streams that are followed at once; usually each thread that writes in order is one. */
const STREAMS = 16;
/** The most pages that are copied for one fault: their copies take about as long as the fault itself. */
const MOST_PAGES = 32;

/**
 * Finds threads that write page after page, so that the pages that they will write next are copied with the one for which they wait, which
 * takes less time than a fault for each. A fault on the page after a run of copied pages doubles the next run.
 */
export class WriteStreams {
  readonly #blocks = new Int32Array(STREAMS).fill(-1);
  /** For each stream the page after its last run, and the length of that run. */
  readonly #next = new Float64Array(STREAMS);
  readonly #pages = new Int32Array(STREAMS);
  #oldest = 0;

  /** The number of pages to copy for a fault on this page, itself included. */
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
