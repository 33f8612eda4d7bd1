import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import { pagesOf } from '../memory/guest-memory.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import { PageRunList } from '../memory/page-run.js';
import { splitZeroPages } from '../memory/zero-page.js';
import { digestPage } from './page-digest.js';

/** How many differing pages are named. */
const NAMED = 16;

/** The destination's side of the comparison: collects the source's digests and says which pages differ. */
export class DigestComparison {
  readonly #windows: MemoryWindows;
  readonly #mentioned: DirtyBitmaps;
  readonly #own = new Uint32Array(2);
  pagesCompared = 0;
  pagesDifferent = 0;
  /** The first differing pages, flat [block, page, ...]. */
  readonly differences: number[] = [];

  constructor(windows: MemoryWindows) {
    this.#windows = windows;
    this.#mentioned = new DirtyBitmaps(windows.memory);
  }

  /** `digests` holds two words for each page of the runs, which have been checked against the block. */
  compare(blockIndex: number, runs: readonly number[], digests: Uint32Array): void {
    let at = 0;
    for (let i = 0; i < runs.length; i += 2) {
      const first = runs[i] as number;
      const count = runs[i + 1] as number;
      this.#mentioned.at(blockIndex).setRange(first, count);
      for (let page = first; page < first + count; page++, at += 2) {
        digestPage(this.#windows, blockIndex, page, this.#own, 0);
        this.pagesCompared++;
        if (this.#own[0] !== digests[at] || this.#own[1] !== digests[at + 1]) this.#differs(blockIndex, page);
      }
    }
  }

  /** Every page that was not mentioned must be zero; those with memory behind them are looked at. */
  async finish(yieldToOthers: () => Promise<void>): Promise<void> {
    const { memory } = this.#windows;
    const nonZero = new PageRunList();
    const zero = new PageRunList();
    const unmentioned = new PageRunList();
    for (const [blockIndex, block] of memory.blocks.entries()) {
      const mentioned = this.#mentioned.at(blockIndex);
      const pages = pagesOf(memory, block);
      const step = 4096;
      for (let first = 0; first < pages; first += step) {
        const range = { firstPage: first, pageCount: Math.min(step, pages - first) };
        for (const run of block.populated?.(range) ?? [range]) {
          unmentioned.clear();
          const end = run.firstPage + run.pageCount;
          for (let page = mentioned.nextClean(run.firstPage); page < end; ) {
            const dirty = mentioned.nextDirty(page);
            const stop = dirty === -1 || dirty > end ? end : dirty;
            unmentioned.push(page, stop - page);
            page = mentioned.nextClean(stop);
          }
          for (let i = 0; i < unmentioned.length; i++) {
            nonZero.clear();
            zero.clear();
            splitZeroPages(this.#windows, blockIndex, unmentioned.firstPage(i), unmentioned.runPages(i), nonZero, zero);
            this.pagesCompared += unmentioned.runPages(i);
            for (const wrong of nonZero) {
              for (let page = wrong.firstPage; page < wrong.firstPage + wrong.pageCount; page++) this.#differs(blockIndex, page);
            }
          }
        }
        if (first % (step * 16) === 0) await yieldToOthers();
      }
    }
  }

  #differs(blockIndex: number, page: number): void {
    this.pagesDifferent++;
    if (this.differences.length < NAMED * 2) this.differences.push(blockIndex, page);
  }
}
