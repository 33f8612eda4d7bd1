import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import { pagesOf, populatedRuns } from '../memory/guest-memory.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import { PageRunList } from '../memory/page-run.js';
import { splitZeroPages } from '../memory/zero-page.js';
import { digestPage } from './page-digest.js';

/** Bytes of a step, which is inside one window and takes a fraction of a millisecond. */
const STEP_BYTES = 4 * 2 ** 20;

/** Milliseconds of continuous work after which the comparison yields to pending I/O. */
const YIELD_AFTER_MS = 3;

/** Pages after which the clock is read. */
const PAGES_PER_CLOCK_READ = 256;

/** Most differing pages that are named. */
const NAMED = 16;

/** The destination's side of the comparison: compares the source's digests with its own pages, and counts those that differ. */
export class DigestComparison {
  readonly #windows: MemoryWindows;
  readonly #clock: Clock;
  readonly #isOver: () => boolean;
  #lastYield: number;
  readonly #mentioned: DirtyBitmaps;
  readonly #own = new Uint32Array(2);
  pagesCompared = 0;
  pagesDifferent = 0;
  /** The first differing pages, flat [block, page, ...]. */
  readonly differences: number[] = [];

  /** `isOver`: whether the connection is over, so that the memory may soon be gone; the comparison then rejects. */
  constructor(windows: MemoryWindows, clock: Clock, isOver: () => boolean = () => false) {
    this.#windows = windows;
    this.#clock = clock;
    this.#isOver = isOver;
    this.#lastYield = clock.now();
    this.#mentioned = new DirtyBitmaps(windows.memory);
  }

  /** Compares the pages of `runs`, which were checked against the block, with `digests`: two words for each page. */
  async compare(blockIndex: number, runs: readonly number[], digests: Uint32Array): Promise<void> {
    let at = 0;
    for (let i = 0; i < runs.length; i += 2) {
      const first = runs[i] as number;
      const count = runs[i + 1] as number;
      this.#mentioned.at(blockIndex).setRange(first, count);
      for (let page = first; page < first + count; page++, at += 2) {
        digestPage(this.#windows, blockIndex, page, this.#own, 0);
        if (this.#own[0] !== digests[at] || this.#own[1] !== digests[at + 1]) this.#differs(blockIndex, page);
        if (++this.pagesCompared % PAGES_PER_CLOCK_READ === 0) await this.#yield();
      }
    }
  }

  /** Compares every populated page without a digest with zero. */
  async finish(): Promise<void> {
    const { memory } = this.#windows;
    const nonZero = new PageRunList();
    const zero = new PageRunList();
    const unmentioned = new PageRunList();
    for (const [blockIndex, block] of memory.blocks.entries()) {
      const mentioned = this.#mentioned.at(blockIndex);
      const pages = pagesOf(memory, block);
      const step = Math.max(1, STEP_BYTES / memory.pageSize);
      for (let first = 0; first < pages; first += step) {
        const range = { firstPage: first, pageCount: Math.min(step, pages - first) };
        for (const run of populatedRuns(block, range)) {
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
              for (let page = wrong.firstPage; page < wrong.firstPage + wrong.pageCount; page++)
                this.#differs(blockIndex, page);
            }
          }
        }
        await this.#yield();
      }
    }
  }

  async #yield(): Promise<void> {
    if (this.#clock.now() - this.#lastYield <= YIELD_AFTER_MS) return;
    await this.#clock.yield();
    this.#lastYield = this.#clock.now();
    if (this.#isOver())
      throw new GodwitError('GODWIT_LINK_LOST', 'the comparison of RAM was abandoned: the connection is over');
  }

  #differs(blockIndex: number, page: number): void {
    this.pagesDifferent++;
    if (this.differences.length < NAMED * 2) this.differences.push(blockIndex, page);
  }
}
