import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import { pagesOf, populatedRuns, type RamBlock } from '../memory/guest-memory.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import { type PageRun, PageRunList } from '../memory/page-run.js';
import { splitZeroPages } from '../memory/zero-page.js';
import { digestPages } from './digest-pages.js';
import { digestWords } from './page-digest.js';

/** The bytes of a step. A step is inside one window and takes a fraction of a millisecond. */
const STEP_BYTES = 4 * 2 ** 20;

/** Milliseconds of continuous work after which the comparison yields to pending I/O. */
const YIELD_AFTER_MS = 3;

/** Most pages whose digests are computed together; then the clock is read. */
const PAGES_PER_STEP = 64;

/** Runs lie close together when they span at most this many times their pages. */
const CLOSE = 4;

/** Most differing pages that are named. */
const NAMED = 16;

/** The destination's side of the comparison: compares the source's digests with its own pages, and counts those that differ. */
export class DigestComparison {
  readonly #windows: MemoryWindows;
  readonly #clock: Clock;
  readonly #isOver: () => boolean;
  #lastYield: number;
  readonly #mentioned: DirtyBitmaps;
  readonly #own = new Uint32Array(2 * PAGES_PER_STEP);
  /** The digest of a page of zeros. */
  readonly #ofZeros = new Uint32Array(2);
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
    const words = windows.pageSize >>> 2;
    digestWords(new Int32Array(words), 0, words, this.#ofZeros, 0);
  }

  /**
   * Compares the pages of `runs`, which were checked against the block, with `digests`: two words for each page. Holes are not read:
   * they count as zero.
   */
  async compare(blockIndex: number, runs: readonly number[], digests: Uint32Array): Promise<void> {
    const block = this.#windows.memory.blocks[blockIndex] as RamBlock;
    const mentioned = this.#mentioned.at(blockIndex);
    const populated = populatedAround(block, runs);
    let extent = populated.next();
    let at = 0;
    for (let i = 0; i < runs.length; i += 2) {
      const first = runs[i] as number;
      const count = runs[i + 1] as number;
      mentioned.setRange(first, count);
      for (let page = first; page < first + count; ) {
        while (!extent.done && extent.value.firstPage + extent.value.pageCount <= page) extent = populated.next();
        const { firstPage = Number.POSITIVE_INFINITY, pageCount = 0 } = extent.done === true ? {} : extent.value;
        const hole = firstPage > page;
        const border = hole ? firstPage : Math.min(firstPage + pageCount, this.#windows.windowEnd(page));
        const pages = Math.min(first + count, border, page + PAGES_PER_STEP) - page;
        if (!hole) {
          const bytes = this.#windows.bytes(blockIndex, page, pages);
          digestPages(bytes, 0, bytes.byteLength, this.#windows.pageSize, this.#own, 0);
        }
        for (let i = 0; i < pages; i++, at += 2) {
          const own = hole ? this.#ofZeros : this.#own;
          const from = hole ? 0 : 2 * i;
          if (own[from] !== digests[at] || own[from + 1] !== digests[at + 1]) this.#differs(blockIndex, page + i);
        }
        page += pages;
        this.pagesCompared += pages;
        await this.#yield();
      }
    }
  }

  /** Compares every populated page without a digest with zero. Shared blocks are left out, since they are the same memory. */
  async finish(): Promise<void> {
    const { memory } = this.#windows;
    const nonZero = new PageRunList();
    const zero = new PageRunList();
    const unmentioned = new PageRunList();
    for (const [blockIndex, block] of memory.blocks.entries()) {
      if (block.shared) continue;
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

/**
 * Yields the populated runs of flat `runs`, ascending; populated pages between these runs may be included. Runs that lie close
 * together share one call of `populated`, since each call costs as much as some pages.
 */
function* populatedAround(block: RamBlock, runs: readonly number[]): Generator<PageRun, void> {
  let pages = 0;
  for (let i = 1; i < runs.length; i += 2) pages += runs[i] as number;
  const first = runs[0] as number;
  const span = (runs.at(-2) as number) + (runs.at(-1) as number) - first;
  if (span <= pages * CLOSE) {
    yield* populatedRuns(block, { firstPage: first, pageCount: span });
    return;
  }
  for (let i = 0; i < runs.length; i += 2) {
    yield* populatedRuns(block, { firstPage: runs[i] as number, pageCount: runs[i + 1] as number });
  }
}
