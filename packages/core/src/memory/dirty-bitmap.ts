import { GodwitError } from '../errors.js';
import type { PageRunList } from './page-run.js';
import { orRange, popCount, popCount4, trailingZeros } from './word-bits.js';

/** Bound once, since looking up a global is slow in a VM context (such as Jest's). */
const { floor, min } = Math;

/** Words of the bitmap that share an entry of the summary: 128 MiB of guest memory, in 4 KiB of bitmap. */
const CHUNK_WORDS = 1024;

/** Indices of the words of a chunk that have bits. All walks share this array, since each ends before the next one begins. */
const withBits = new Int32Array(CHUNK_WORDS);

/**
 * One bit per page of a RAM block, in the kernel's layout: little-endian 64-bit words, bit 0 of word 0 is page 0,
 * storage rounded up to whole words. The bytes can be passed to `KVM_GET_DIRTY_LOG` and VFIO as they are.
 *
 * A summary knows the chunks (of 32,768 pages) in which a bit may be set, so that clearing, counting, searching and ORing a bitmap of a
 * TiB with few dirty pages take microseconds instead of milliseconds. Storage that is also written through `words`, through `bytes` or
 * by another thread has no summary.
 *
 * The words are a `Uint32Array`, since a walk over the bigints of a `BigUint64Array` is about twenty times slower.
 * Bits past the last page are always zero.
 *
 * @example
 * const dirty = new DirtyBitmap(262_144); // 1 GiB of pages of 4 KiB
 * dirty.setRange(16, 4);
 * for (let page = dirty.nextDirty(0); page !== -1; page = dirty.nextDirty(page + 1)) console.log(page);
 */
export class DirtyBitmap {
  readonly pageCount: number;
  readonly #words: Uint32Array;
  readonly #shared: boolean;
  /** For each chunk 1 when a bit of it may be set. `undefined` when the words may be written without this object. */
  #touched: Uint8Array | undefined;

  /**
   * Makes a bitmap that is all clean, or that has the bits of `shared`: storage of `DirtyBitmap.storageBytes` bytes that other threads
   * use too. All threads may then set and clear bits at the same time. `summary`: storage of `summaryBytes` bytes for the summary of
   * `shared`; without it a shared bitmap has no summary. With a summary none of the threads may write through `words` or `bytes`.
   */
  constructor(pageCount: number, shared?: ArrayBufferLike, summary?: ArrayBufferLike) {
    if (!Number.isSafeInteger(pageCount) || pageCount < 0 || pageCount > 2 ** 40) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        `a dirty bitmap needs a page count from 0 to 2^40, got ${pageCount}`,
      );
    }
    this.pageCount = pageCount;
    this.#shared = shared !== undefined;
    const words = DirtyBitmap.storageBytes(pageCount) / 4;
    this.#words = shared === undefined ? new Uint32Array(words) : new Uint32Array(shared, 0, words);
    const chunks = Math.ceil(words / CHUNK_WORDS);
    if (summary !== undefined) this.#touched = new Uint8Array(summary, 0, chunks);
    else if (shared === undefined) this.#touched = new Uint8Array(chunks);
  }

  /**
   * The 32-bit words; always an even number of them. A caller may keep and write them at any time, so that the bitmap has no summary
   * after this call; `orWord` and `wordsFor` keep it.
   */
  get words(): Uint32Array {
    this.#touched = undefined;
    return this.#words;
  }

  /** The words, of which the caller sets bits of these pages only, before any other use of the bitmap. */
  wordsFor(firstPage: number, pageCount: number): Uint32Array {
    this.#check(firstPage, pageCount);
    this.#touch(floor(firstPage / 32), floor((firstPage + pageCount - 1) / 32));
    return this.#words;
  }

  /** Copies the words of the pages from `firstPage` (a multiple of 32) on into `into`, until `into` is full. */
  copyWords(firstPage: number, into: Uint32Array): void {
    const first = firstPage / 32;
    for (let i = 0; i < into.length; i++) into[i] = this.#words[first + i] ?? 0;
  }

  /**
   * Moves the bits of `mask` that are set in the word at index `at` to `other`, and returns them. Of several threads that move the same
   * bit, one gets it.
   */
  moveWord(at: number, mask: number, other: DirtyBitmap): number {
    const moved = (Atomics.and(this.#words, at, ~mask) & mask) >>> 0;
    if (moved !== 0) other.#write(at, moved, true);
    return moved;
  }

  /** ORs `bits` into the 32-bit word at index `at`. */
  orWord(at: number, bits: number): void {
    if (at >= this.#words.length) return;
    this.#write(at, bits, true);
  }

  /** Bytes of storage for the bits of `pageCount` pages. */
  static storageBytes(pageCount: number): number {
    return Math.ceil(pageCount / 64) * 8;
  }

  /** Bytes of storage for the summary of a bitmap of `pageCount` pages. */
  static summaryBytes(pageCount: number): number {
    return Math.ceil(DirtyBitmap.storageBytes(pageCount) / 4 / CHUNK_WORDS);
  }

  /**
   * The bitmap's memory as bytes, for ioctls: writing these bytes writes the bitmap, which has no summary after this call. Call
   * `maskTail` after a kernel has written it.
   */
  get bytes(): Uint8Array {
    const { buffer, byteOffset, byteLength } = this.words;
    return new Uint8Array(buffer, byteOffset, byteLength);
  }

  /** Whether a page is dirty. */
  has(page: number): boolean {
    return ((this.#words[floor(page / 32)] as number) & (1 << (page % 32))) !== 0;
  }

  /** Makes a page dirty. Throws `GODWIT_INVALID_ARGUMENT` beyond the block. */
  set(page: number): void {
    this.#check(page, 1);
    this.#write(floor(page / 32), 1 << (page % 32), true);
  }

  /** Makes `pageCount` pages from `firstPage` on dirty. Throws `GODWIT_INVALID_ARGUMENT` beyond the block. */
  setRange(firstPage: number, pageCount: number): void {
    this.#check(firstPage, pageCount);
    this.#eachWord(firstPage, pageCount, true);
  }

  /** Makes `pageCount` pages from `firstPage` on clean. Throws `GODWIT_INVALID_ARGUMENT` beyond the block. */
  clearRange(firstPage: number, pageCount: number): void {
    this.#check(firstPage, pageCount);
    this.#eachWord(firstPage, pageCount, false);
  }

  /** Makes every page dirty. */
  setAll(): void {
    this.#words.fill(0xffffffff);
    this.#touched?.fill(1);
    this.maskTail();
  }

  /** Makes every page clean. */
  clearAll(): void {
    const touched = this.#touched;
    if (touched === undefined) {
      this.#words.fill(0);
      return;
    }
    for (let chunk = touched.indexOf(1); chunk !== -1; chunk = touched.indexOf(1, chunk + 1)) {
      this.#words.fill(0, chunk * CHUNK_WORDS, (chunk + 1) * CHUNK_WORDS);
    }
    touched.fill(0);
  }

  /** `this |= other`, word by word. Both must have the same page count. */
  or(other: DirtyBitmap): void {
    if (other.pageCount !== this.pageCount) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        `cannot OR a bitmap of ${other.pageCount} pages into one of ${this.pageCount}`,
      );
    }
    const mine = this.#words;
    const theirs = other.#words;
    for (let chunk = other.#nextTouched(0); chunk !== -1; chunk = other.#nextTouched(chunk + 1)) {
      const first = chunk * CHUNK_WORDS;
      if (orRange(mine, theirs, first, min(first + CHUNK_WORDS, mine.length)) && this.#touched !== undefined)
        this.#touched[chunk] = 1;
    }
  }

  /** `this &= other`, word by word. Both must have the same page count. */
  and(other: DirtyBitmap): void {
    const mine = this.#words;
    const theirs = other.#words;
    for (let chunk = this.#nextTouched(0); chunk !== -1; chunk = this.#nextTouched(chunk + 1)) {
      const end = min((chunk + 1) * CHUNK_WORDS, mine.length);
      for (let i = chunk * CHUNK_WORDS; i < end; i++) mine[i] = (mine[i] as number) & (theirs[i] as number);
    }
  }

  /** `this &= ~other`, word by word. Both must have the same page count. */
  andNot(other: DirtyBitmap): void {
    const mine = this.#words;
    const theirs = other.#words;
    for (let chunk = other.#nextTouched(0); chunk !== -1; chunk = other.#nextTouched(chunk + 1)) {
      const end = min((chunk + 1) * CHUNK_WORDS, mine.length);
      for (let i = chunk * CHUNK_WORDS; i < end; i++) mine[i] = (mine[i] as number) & ~(theirs[i] as number);
    }
  }

  /** Whether every bit of `other` is set here. Both must have the same page count. */
  contains(other: DirtyBitmap): boolean {
    const mine = this.#words;
    const theirs = other.#words;
    for (let chunk = other.#nextTouched(0); chunk !== -1; chunk = other.#nextTouched(chunk + 1)) {
      const end = min((chunk + 1) * CHUNK_WORDS, mine.length);
      for (let i = chunk * CHUNK_WORDS; i < end; i++) {
        if (((theirs[i] as number) & ~(mine[i] as number)) !== 0) return false;
      }
    }
    return true;
  }

  /** ORs raw kernel words that describe pages from `firstPage` (a multiple of 32) on; bits past the end are dropped. */
  orWords(source: Uint32Array, firstPage: number): void {
    if (firstPage % 32 !== 0 || firstPage < 0) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        `bitmap words start at a multiple of 32 pages, got ${firstPage}`,
      );
    }
    const mine = this.#words;
    const touched = this.#touched;
    const base = firstPage / 32;
    const n = min(source.length, mine.length - base);
    // The loop has no branch for clean words, which the processor would often predict wrong where few pages are dirty.
    for (let i = 0; i < n; ) {
      const chunk = floor((base + i) / CHUNK_WORDS);
      const end = min(n, (chunk + 1) * CHUNK_WORDS - base);
      if (orRange(mine, source, i, end, base) && touched !== undefined) touched[chunk] = 1;
      i = end;
    }
    this.maskTail();
  }

  /** Number of dirty pages. */
  count(): number {
    let total = 0;
    for (let chunk = this.#nextTouched(0); chunk !== -1; chunk = this.#nextTouched(chunk + 1)) {
      const first = chunk * CHUNK_WORDS * 32;
      total += this.countRange(first, min(CHUNK_WORDS * 32, this.pageCount - first));
    }
    return total;
  }

  /** Number of dirty pages in a range. */
  countRange(firstPage: number, pageCount: number): number {
    this.#check(firstPage, pageCount);
    if (pageCount === 0) return 0;
    const words = this.#words;
    const end = firstPage + pageCount;
    const firstWord = floor(firstPage / 32);
    const lastWord = floor((end - 1) / 32);
    const head = -1 << (firstPage % 32);
    const tail = end % 32 === 0 ? -1 : ~(-1 << (end % 32));
    if (firstWord === lastWord) return popCount((words[firstWord] as number) & head & tail);
    let total = popCount((words[firstWord] as number) & head) + popCount((words[lastWord] as number) & tail);
    let i = firstWord + 1;
    for (; i + 4 <= lastWord; i += 4) total += popCount4(words, i);
    for (; i < lastWord; i++) total += popCount(words[i] as number);
    return total;
  }

  /** Whether no page is dirty. */
  isEmpty(): boolean {
    return this.nextDirty(0) === -1;
  }

  /** First dirty page at or after `page` and before `end`, or -1. */
  nextDirty(page: number, end = this.pageCount): number {
    const words = this.#words;
    const stop = min(words.length, floor((end + 31) / 32));
    let i = floor(page / 32);
    if (i >= stop) return -1;
    let bits = (words[i] as number) & (-1 << (page % 32));
    while (bits === 0) {
      if (++i >= stop) return -1;
      if (i % CHUNK_WORDS === 0) {
        const chunk = this.#nextTouched(i / CHUNK_WORDS);
        if (chunk === -1) return -1;
        i = chunk * CHUNK_WORDS;
        if (i >= stop) return -1;
      }
      bits = words[i] as number;
    }
    const found = i * 32 + trailingZeros(bits);
    return found < end ? found : -1;
  }

  /** First clean page at or after `page`; `pageCount` when there is none. */
  nextClean(page: number): number {
    const words = this.#words;
    let i = floor(page / 32);
    if (i >= words.length) return this.pageCount;
    let bits = ~(words[i] as number) & (-1 << (page % 32));
    while (bits === 0) {
      if (++i >= words.length) return this.pageCount;
      bits = ~(words[i] as number);
    }
    return min(i * 32 + trailingZeros(bits), this.pageCount);
  }

  /** Appends the dirty runs of a range to `into` and returns it. Takes about 10 ns a run, and 1 ns a clean word. */
  runs(into: PageRunList, firstPage = 0, pageCount = this.pageCount - firstPage): PageRunList {
    this.#check(firstPage, pageCount);
    if (pageCount === 0) return into;
    const words = this.#words;
    const end = firstPage + pageCount;
    const firstWord = floor(firstPage / 32);
    const lastWord = floor((end - 1) / 32);
    const head = -1 << (firstPage % 32);
    const tail = end % 32 === 0 ? -1 : ~(-1 << (end % 32));
    /** The first page of a run that reaches to the end of the last word with bits; -1 when there is none. */
    let open = -1;
    let before = -1;
    /** Only the first run of this call may touch the last run that was already in the list. */
    let apart = into.length === 0;
    for (let from = firstWord; from !== -1 && from <= lastWord; ) {
      const chunk = floor(from / CHUNK_WORDS);
      const count = indicesWithBits(words, from, min(lastWord + 1, (chunk + 1) * CHUNK_WORDS));
      for (let n = 0; n < count; n++) {
        const i = withBits[n] as number;
        let bits = (words[i] as number) | 0;
        if (i === firstWord) bits &= head;
        if (i === lastWord) bits &= tail;
        const base = i * 32;
        if (open !== -1 && i !== before + 1) {
          into.push(open, (before + 1) * 32 - open);
          open = -1;
        }
        before = i;
        if (bits === -1) {
          if (open === -1) open = base;
          continue;
        }
        if (open !== -1) {
          const ones = trailingZeros(~bits);
          into.push(open, base + ones - open);
          bits &= -1 << ones;
          open = -1;
        }
        while (bits !== 0) {
          const start = trailingZeros(bits);
          const clean = ~bits & (-1 << start);
          if (clean === 0) {
            open = base + start;
            break;
          }
          const stop = trailingZeros(clean);
          if (apart) into.pushApart(base + start, stop - start);
          else into.push(base + start, stop - start);
          apart = true;
          bits &= -1 << stop;
        }
      }
      const next = this.#nextTouched(chunk + 1);
      from = next === -1 ? -1 : next * CHUNK_WORDS;
    }
    if (open !== -1) into.push(open, min(end, (before + 1) * 32) - open);
    return into;
  }

  /** Clears the bits past the last page, which a kernel may have set. */
  maskTail(): void {
    const used = this.pageCount % 64;
    const words = this.#words;
    if (used === 0 || words.length === 0) return;
    const low = words.length - 2;
    if (used <= 32) {
      words[low + 1] = 0;
      if (used < 32) words[low] = (words[low] as number) & ~(-1 << used);
    } else {
      words[low + 1] = (words[low + 1] as number) & ~(-1 << (used - 32));
    }
  }

  #check(firstPage: number, pageCount: number): void {
    if (firstPage >= 0 && pageCount >= 0 && firstPage + pageCount <= this.pageCount) return;
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `pages ${firstPage}..${firstPage + pageCount} are outside a bitmap of ${this.pageCount} pages`,
    );
  }

  #touch(firstWord: number, lastWord: number): void {
    this.#touched?.fill(1, floor(firstWord / CHUNK_WORDS), floor(lastWord / CHUNK_WORDS) + 1);
  }

  /** The first chunk from `chunk` on in which a bit may be set, or -1. */
  #nextTouched(chunk: number): number {
    const touched = this.#touched;
    if (touched !== undefined) return touched.indexOf(1, chunk);
    return chunk * CHUNK_WORDS < this.#words.length ? chunk : -1;
  }

  #eachWord(firstPage: number, pageCount: number, value: boolean): void {
    if (pageCount === 0) return;
    const words = this.#words;
    const end = firstPage + pageCount;
    const firstWord = floor(firstPage / 32);
    const lastWord = floor((end - 1) / 32);
    const head = -1 << (firstPage % 32);
    const tail = end % 32 === 0 ? -1 : ~(-1 << (end % 32));
    if (value) this.#touch(firstWord, lastWord);
    if (firstWord === lastWord) {
      this.#write(firstWord, head & tail, value);
      return;
    }
    this.#write(firstWord, head, value);
    words.fill(value ? 0xffffffff : 0, firstWord + 1, lastWord);
    this.#write(lastWord, tail, value);
  }

  /** Writes the bits of `mask`, atomically in shared storage, since the pages of different threads may share a word. */
  #write(at: number, mask: number, value: boolean): void {
    const words = this.#words;
    if (value && this.#touched !== undefined) this.#touched[floor(at / CHUNK_WORDS)] = 1;
    if (!this.#shared) words[at] = value ? (words[at] as number) | mask : (words[at] as number) & ~mask;
    else if (value) Atomics.or(words, at, mask);
    else Atomics.and(words, at, ~mask);
  }
}

/** Puts the indices of the words from `from` up to `end` that have bits into `withBits`, and returns how many there are. */
function indicesWithBits(words: Uint32Array, from: number, end: number): number {
  let count = 0;
  for (let i = from; i < end; i++) {
    const word = (words[i] as number) | 0;
    withBits[count] = i;
    // Adds 1 for a word with bits, without a branch, which the processor would often predict wrong where few pages are dirty.
    count += (word | -word) >>> 31;
  }
  return count;
}
