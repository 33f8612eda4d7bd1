import type { DirtyBitmap } from '../memory/dirty-bitmap.js';
import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory, RamBlock } from '../memory/guest-memory.js';
import { PageRunList } from '../memory/page-run.js';
import { cutHoles } from '../memory/populated-pages.js';
import type { PageQueue } from './page-queue.js';

/**
 * Re-arms pages of a block just before they are read: bit i of `words` is page `firstPage + i`. `firstPage` is a multiple of 64, and
 * `pageCount` too except at the end of the block. No page whose bit is clear may be re-armed: another thread may have read it already.
 */
export type Rearm = (block: number, firstPage: number, pageCount: number, words: Uint32Array) => void;

/** The pages that `PageTaker.take` returns. */
export interface TakenPages {
  blockIndex: number;
  /** Pages to read. No run crosses a memory window. */
  readonly runs: PageRunList;
  /** Pages without memory behind them. */
  readonly holes: PageRunList;
}

/** Takes pages out of a queue, in batches of one block each. Each thread that takes has its own. */
export class PageTaker {
  readonly #queue: PageQueue;
  readonly #memory: GuestMemory;
  readonly #rearm: Rearm | undefined;
  readonly #words: Uint32Array;
  readonly #masks: Uint32Array;
  readonly #runs = new PageRunList();
  /** The pages of the claimed chunk that have memory and those that are holes, each list with the place up to which it was taken. */
  readonly #present = { list: new PageRunList(), run: 0, page: 0 };
  readonly #holes = { list: new PageRunList(), run: 0, page: 0 };
  #block = 0;
  #pass = 0;
  /** In this pass only these of the owed pages are taken; undefined: all. */
  #only: DirtyBitmaps | undefined;
  #chunkPages = 0;
  #firstChunk: readonly number[] = [];

  /** `rearm` is called for the pages of each claimed chunk, before their holes are found and before any of them is read. */
  constructor(queue: PageQueue, memory: GuestMemory, rearm?: Rearm) {
    this.#queue = queue;
    this.#memory = memory;
    this.#rearm = rearm;
    this.#words = new Uint32Array(queue.mostChunkPages / 32);
    this.#masks = new Uint32Array(queue.first === undefined ? 0 : queue.mostChunkPages / 32);
  }

  /** Begins a pass of the queue (`PageQueue.open`). Pages that it had claimed before and not taken are still owed. */
  begin(pass: number): void {
    this.#pass = pass;
    const { chunkPages, only } = this.#queue;
    this.#only = only;
    if (chunkPages !== this.#chunkPages) {
      this.#chunkPages = chunkPages;
      this.#firstChunk = this.#queue.firstChunks(chunkPages);
    }
    this.#drop();
  }

  /**
   * Fills `into` with at most `mostPages` pages to read, in at most `mostRuns` runs, and with as many runs of holes. Returns the number of
   * all these pages: 0 when the pass is over or has no more.
   */
  take(into: TakenPages, mostPages: number, mostRuns: number): number {
    const { runs, holes } = into;
    runs.clear();
    holes.clear();
    let pages = 0;
    while (this.#queue.isOpen(this.#pass) && (this.#hasClaimed || this.#claim())) {
      if (pages === 0) into.blockIndex = this.#block;
      else if (into.blockIndex !== this.#block) break;
      this.#move(this.#present, runs, mostPages, mostRuns);
      this.#move(this.#holes, holes, Number.MAX_SAFE_INTEGER, mostRuns);
      pages = runs.pageCount + holes.pageCount;
      if (runs.pageCount >= mostPages || runs.length >= mostRuns || holes.length >= mostRuns) break;
    }
    return pages;
  }

  get #hasClaimed(): boolean {
    return this.#present.run < this.#present.list.length || this.#holes.run < this.#holes.list.length;
  }

  #drop(): void {
    for (const part of [this.#present, this.#holes]) {
      part.list.clear();
      part.run = 0;
      part.page = 0;
    }
  }

  #move(from: { list: PageRunList; run: number; page: number }, to: PageRunList, mostPages: number, mostRuns: number) {
    const { list } = from;
    while (from.run < list.length && to.length < mostRuns && to.pageCount < mostPages) {
      const left = list.runPages(from.run) - from.page;
      const take = Math.min(left, mostPages - to.pageCount);
      this.#queue.takeRange(this.#block, list.firstPage(from.run) + from.page, take, to);
      if (take < left) from.page += take;
      else {
        from.run++;
        from.page = 0;
      }
    }
  }

  /** Claims the next chunk with pages that are owed, re-arms these, and finds the holes among them. Returns false when there is none. */
  #claim(): boolean {
    const queue = this.#queue;
    for (;;) {
      const at = queue.cursor;
      const chunk = this.#find(at);
      if (chunk === -1) return false;
      if (!queue.claim(at, chunk + 1)) continue;
      const firstPage = (chunk - (this.#firstChunk[this.#block] as number)) * this.#chunkPages;
      const bitmap = queue.owed.at(this.#block);
      const pageCount = Math.min(this.#chunkPages, bitmap.pageCount - firstPage);
      this.#drop();
      if (this.#rearm !== undefined) {
        const words = this.#words.subarray(0, Math.ceil(pageCount / 64) * 2);
        bitmap.copyWords(firstPage, words);
        if (this.#only !== undefined) this.#keepOnly(this.#only.at(this.#block), firstPage, words);
        this.#rearm(this.#block, firstPage, pageCount, words);
      }
      this.#runs.clear();
      // Those of them that are not owed are left out when the pages are moved.
      (this.#only?.at(this.#block) ?? bitmap).runs(this.#runs, firstPage, pageCount);
      this.#findHoles(this.#memory.blocks[this.#block] as RamBlock);
      if (this.#hasClaimed) return true;
    }
  }

  #keepOnly(only: DirtyBitmap, firstPage: number, words: Uint32Array): void {
    const masks = this.#masks.subarray(0, words.length);
    only.copyWords(firstPage, masks);
    for (let i = 0; i < words.length; i++) words[i] = (words[i] as number) & (masks[i] as number);
  }

  #findHoles(block: RamBlock): void {
    const runs = this.#runs;
    const last = runs.length - 1;
    if (last < 0) return;
    const firstPage = runs.firstPage(0);
    const range = { firstPage, pageCount: runs.firstPage(last) + runs.runPages(last) - firstPage };
    cutHoles(runs, block.populated?.(range) ?? [range], this.#present.list, this.#holes.list);
  }

  /** The first chunk from number `at` on with pages that are owed, or -1; `#block` is then its block. */
  #find(at: number): number {
    const wanted = this.#only ?? this.#queue.owed;
    const firstChunk = this.#firstChunk;
    const chunkPages = this.#chunkPages;
    // The search before this one has ended behind the cursor: it has found nothing, or it was in another pass.
    if (at < (firstChunk[this.#block] as number)) this.#block = 0;
    for (; this.#block < wanted.blocks.length; this.#block++) {
      const first = firstChunk[this.#block] as number;
      const page = wanted.at(this.#block).nextDirty(Math.max(0, at - first) * chunkPages);
      if (page !== -1) return first + Math.floor(page / chunkPages);
    }
    return -1;
  }
}
