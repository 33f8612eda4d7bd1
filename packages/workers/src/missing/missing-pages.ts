import type { DirtyBitmaps } from '@godwit/core/pages';

/** The buffers of `MissingPages`, which can be passed to `postMessage` as they are. */
export interface MissingPagesBuffers {
  readonly pages: readonly number[];
  readonly missing: readonly SharedArrayBuffer[];
  readonly claimed: readonly SharedArrayBuffer[];
  readonly counts: SharedArrayBuffer;
}

const { clz32 } = Math;
const LEFT = 0;
const DUPLICATES = 1;
const COUNTS = 2;

/**
 * The pages that are still missing, in memory that all threads share.
 *
 * A page is **missing** until it is in guest memory, whole: its bit is cleared once after that, by the thread that put the page. A page
 * that is not missing is in memory, or is zero. A page is **claimed** once it was asked for because of a fault: the loading thread then
 * leaves it out. A fault on a page that is just being loaded is served nevertheless, and the second copy of the page is dropped.
 */
export class MissingPages {
  readonly buffers: MissingPagesBuffers;
  readonly #missing: readonly Int32Array[];
  readonly #claimed: readonly Int32Array[];
  readonly #counts: Int32Array;

  constructor(buffers: MissingPagesBuffers) {
    this.buffers = buffers;
    this.#missing = buffers.missing.map((buffer) => new Int32Array(buffer));
    this.#claimed = buffers.claimed.map((buffer) => new Int32Array(buffer));
    this.#counts = new Int32Array(buffers.counts);
  }

  /** Makes the bits of a memory in which all pages of `contents` are missing. */
  static of(contents: DirtyBitmaps): MissingPages {
    const made = MissingPages.none(contents.blocks.map(({ pageCount }) => pageCount));
    made.begin(contents);
    return made;
  }

  /** Makes the bits of a memory in which no page is missing. `pages`: for each block, how many it has. */
  static none(pages: readonly number[]): MissingPages {
    const storage = () => pages.map((count) => new SharedArrayBuffer(Math.ceil(count / 32) * 4));
    return new MissingPages({
      pages,
      missing: storage(),
      claimed: storage(),
      counts: new SharedArrayBuffer(COUNTS * 4),
    });
  }

  /** All pages of `contents` are missing from now on, where none was. Called once, before any thread can wait for a page. */
  begin(contents: DirtyBitmaps): void {
    for (const [i, bitmap] of contents.blocks.entries()) {
      bitmap.copyWords(0, new Uint32Array((this.#missing[i] as Int32Array).buffer));
    }
    Atomics.store(this.#counts, LEFT, contents.count());
  }

  /** The number of missing pages. */
  get left(): number {
    return Atomics.load(this.#counts, LEFT);
  }

  /** The missing pages of a block as 32-bit words: bit i of the first is page i. Not a copy. */
  wordsOf(block: number): Int32Array {
    return this.#missing[block] as Int32Array;
  }

  /** The number of pages that came although they were already in memory. */
  get duplicates(): number {
    return Atomics.load(this.#counts, DUPLICATES);
  }

  isMissing(block: number, page: number): boolean {
    return (Atomics.load(this.#missing[block] as Int32Array, page >>> 5) & (1 << (page & 31))) !== 0;
  }

  /** The first page of a range that is missing; -1 when all are there. */
  firstMissing(block: number, page: number, pageCount: number): number {
    const end = page + pageCount;
    const words = this.#missing[block] as Int32Array;
    for (let at = page; at < end; at = (at | 31) + 1) {
      const bits = Atomics.load(words, at >>> 5) & (-1 << (at & 31));
      if (bits === 0) continue;
      const found = (at & ~31) + lowestBit(bits);
      return found < end ? found : -1;
    }
    return -1;
  }

  claim(block: number, page: number): void {
    Atomics.or(this.#claimed[block] as Int32Array, page >>> 5, 1 << (page & 31));
  }

  /**
   * The first page of the first run of missing and unclaimed pages at or after `page` and before `end`; -1 when there is none. `runPages`
   * is then its length, at most `most`. With `only`, a bitmap of the block, just pages of that.
   */
  unclaimedRun(block: number, page: number, end: number, most: number, only?: Int32Array): number {
    const missing = this.#missing[block] as Int32Array;
    const claimed = this.#claimed[block] as Int32Array;
    this.runPages = 0;
    let start = -1;
    for (let at = page; at < end && this.runPages < most; ) {
      const word = at >>> 5;
      const wanted = (only === undefined ? -1 : (only[word] as number)) & (-1 << (at & 31));
      const free = Atomics.load(missing, word) & ~Atomics.load(claimed, word) & wanted;
      if (start === -1) {
        at = free === 0 ? (at | 31) + 1 : (at & ~31) + lowestBit(free);
        if (free === 0 || at >= end) continue;
        start = at;
      } else if ((free & (1 << (at & 31))) === 0) break;
      this.runPages++;
      at++;
    }
    return start;
  }

  /** The number of pages of the last `unclaimedRun`. */
  runPages = 0;

  /** Notes that a page is in guest memory, after it was put there. Returns whether this call was the first for the page. */
  arrived(block: number, page: number): boolean {
    const bit = 1 << (page & 31);
    const before = Atomics.and(this.#missing[block] as Int32Array, page >>> 5, ~bit);
    if ((before & bit) === 0) {
      Atomics.add(this.#counts, DUPLICATES, 1);
      return false;
    }
    Atomics.sub(this.#counts, LEFT, 1);
    return true;
  }

  /** The runs of missing pages, which are marked at the end of the service. */
  *runs(block: number): Iterable<{ readonly page: number; readonly pageCount: number }> {
    const pages = this.buffers.pages[block] as number;
    for (let page = this.firstMissing(block, 0, pages); page !== -1; ) {
      let end = page + 1;
      while (end < pages && this.isMissing(block, end)) end++;
      yield { page, pageCount: end - page };
      page = end < pages ? this.firstMissing(block, end, pages - end) : -1;
    }
  }
}

function lowestBit(bits: number): number {
  return 31 - clz32(bits & -bits);
}
