/**
 * A run of consecutive pages of one RAM block.
 *
 * Page numbers count from the start of the block (page 0 is at `RamBlock.guestPhysicalAddress`), in units of
 * `GuestMemory.pageSize`.
 */
export interface PageRun {
  readonly firstPage: number;
  readonly pageCount: number;
}

/**
 * A growable list of page runs without an object for each run: pairs of (first page, page count) in one `Float64Array`, in which page
 * numbers are exact to 2^53.
 *
 * `clear()` keeps the storage, so that a list can be reused. Appending a run that touches the last one extends it.
 *
 * @example
 * const runs = new PageRunList();
 * runs.push(0, 2);
 * runs.push(2, 1); // extends the run: pages 0 to 2
 */
export class PageRunList {
  #pairs: Float64Array;
  readonly #windowPages: number;
  #length = 0;
  #pageCount = 0;

  /**
   * `windowPages`: a run that starts at a multiple of this number is not merged into the run before it, so that no run crosses a
   * memory window.
   */
  constructor(capacity = 64, windowPages = Number.POSITIVE_INFINITY) {
    this.#pairs = new Float64Array(Math.max(1, capacity) * 2);
    this.#windowPages = windowPages;
  }

  /** Makes a list of these runs. */
  static from(runs: Iterable<PageRun>): PageRunList {
    const list = new PageRunList();
    for (const run of runs) list.push(run.firstPage, run.pageCount);
    return list;
  }

  /** Number of runs. */
  get length(): number {
    return this.#length;
  }

  /** Number of pages in all runs together. */
  get pageCount(): number {
    return this.#pageCount;
  }

  /** The first page of the run at `index`. */
  firstPage(index: number): number {
    return this.#pairs[index * 2] as number;
  }

  /** Number of pages of the run at `index`. */
  runPages(index: number): number {
    return this.#pairs[index * 2 + 1] as number;
  }

  /** Appends a run; a run that starts where the last one ends is merged into that one. */
  push(firstPage: number, pageCount: number): void {
    if (pageCount <= 0) return;
    const last = this.#length * 2 - 2;
    if (
      last >= 0 &&
      (this.#pairs[last] as number) + (this.#pairs[last + 1] as number) === firstPage &&
      firstPage % this.#windowPages !== 0
    ) {
      this.#pairs[last + 1] = (this.#pairs[last + 1] as number) + pageCount;
      this.#pageCount += pageCount;
      return;
    }
    this.pushApart(firstPage, pageCount);
  }

  /** Appends a run of at least one page that is known not to touch the last one. */
  pushApart(firstPage: number, pageCount: number): void {
    const at = this.#length * 2;
    if (at === this.#pairs.length) this.#grow();
    this.#pairs[at] = firstPage;
    this.#pairs[at + 1] = pageCount;
    this.#length++;
    this.#pageCount += pageCount;
  }

  /** Removes all runs; the storage is kept. */
  clear(): void {
    this.#length = 0;
    this.#pageCount = 0;
  }

  /** The runs as flat [first page, page count, ...], as in frames. */
  toFlatArray(): number[] {
    return Array.from(this.#pairs.subarray(0, this.#length * 2));
  }

  /** A copy of the runs for another thread, which `fromPairs` turns into a list again. */
  toPairs(): Float64Array {
    return this.#pairs.slice(0, this.#length * 2);
  }

  /** Makes a list of the result of `toPairs`. */
  static fromPairs(pairs: Float64Array): PageRunList {
    const list = new PageRunList(pairs.length / 2);
    for (let i = 0; i < pairs.length; i += 2) list.pushApart(pairs[i] as number, pairs[i + 1] as number);
    return list;
  }

  /** Yields an object for each run, in order; code that runs for each page uses `firstPage` and `runPages` instead. */
  *[Symbol.iterator](): IterableIterator<PageRun> {
    for (let i = 0; i < this.#length; i++) yield { firstPage: this.firstPage(i), pageCount: this.runPages(i) };
  }

  #grow(): void {
    const grown = new Float64Array(this.#pairs.length * 2);
    grown.set(this.#pairs);
    this.#pairs = grown;
  }
}
