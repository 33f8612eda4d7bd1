import { type DirtyBitmap, type DirtyBitmaps, PageRunList } from '@godwit/core/pages';

/** How much of a part of memory a guest has used in one sample: shares of its pages, from 0 to 1. */
export interface Cell {
  readonly used: number;
  readonly written: number;
}

/** One sample of a guest's memory. */
export interface Sample {
  readonly cells: readonly Cell[];
  readonly usedPages: number;
  readonly writtenPages: number;
}

/** How often each page of a guest was used, sample by sample. */
export class Heat {
  readonly samples: Sample[] = [];
  /** For each page, blocks one after the other: the samples in which it was used. */
  readonly #counts: Uint16Array;
  readonly #columns: number;

  /** @param columns parts into which memory is divided, in the order of its blocks */
  constructor(pageCount: number, columns: number) {
    this.#counts = new Uint16Array(pageCount);
    this.#columns = Math.min(columns, pageCount);
  }

  /** Adds a sample: the pages that were read or written, and those of them that were written. */
  add(used: DirtyBitmaps, written: DirtyBitmaps): void {
    const usedIn = new Uint32Array(this.#columns);
    const writtenIn = new Uint32Array(this.#columns);
    eachPage(used, (page) => {
      (this.#counts[page] as number)++;
      (usedIn[this.#columnOf(page)] as number)++;
    });
    eachPage(written, (page) => (writtenIn[this.#columnOf(page)] as number)++);
    const pages = this.#counts.length / this.#columns;
    const cells = Array.from(usedIn, (count, i) => ({
      used: count / pages,
      written: (writtenIn[i] as number) / pages,
    }));
    this.samples.push({ cells, usedPages: used.count(), writtenPages: written.count() });
  }

  /** Pages that were used in at least so many samples. */
  pagesUsedIn(samples: number): number {
    return this.#counts.reduce((sum, count) => sum + (count >= samples ? 1 : 0), 0);
  }

  /** The least pages that have this share of all uses, such as 0.9: those that a destination should have first. */
  hottestWith(share: number): number {
    const hottestFirst = this.#counts.filter((count) => count !== 0).sort((a, b) => b - a);
    let left = share * hottestFirst.reduce((sum, count) => sum + count, 0);
    let pages = 0;
    for (; left > 0 && pages < hottestFirst.length; pages++) left -= hottestFirst[pages] as number;
    return pages;
  }

  #columnOf(page: number): number {
    return Math.floor((page * this.#columns) / this.#counts.length);
  }
}

/** Calls `visit` with each page that is set, counted from the first block on. */
function eachPage(bitmaps: DirtyBitmaps, visit: (page: number) => void): void {
  const runs = new PageRunList();
  let before = 0;
  for (const bitmap of bitmaps.blocks as readonly DirtyBitmap[]) {
    runs.clear();
    bitmap.runs(runs);
    for (let i = 0; i < runs.length; i++) {
      const first = runs.firstPage(i);
      for (let page = first; page < first + runs.runPages(i); page++) visit(before + page);
    }
    before += bitmap.pageCount;
  }
}
