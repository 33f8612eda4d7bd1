import { DirtyBitmap } from '../memory/dirty-bitmap.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import { type GuestMemory, pagesOf, RAM_WINDOW_BYTES } from '../memory/guest-memory.js';
import type { PageRunList } from '../memory/page-run.js';

/** The memory of a queue, for another thread: can be passed to `postMessage` as it is. */
export interface PageQueueBuffers {
  readonly control: ArrayBufferLike;
  /** For each block: bits and summary of the pages that are owed, and of those that were taken. */
  readonly blocks: readonly QueueBlockBuffers[];
  /** For each block bits and summary of the pages that go first; undefined: no page does. */
  readonly first?: readonly FirstBuffers[] | undefined;
}

interface FirstBuffers {
  readonly bits: ArrayBufferLike;
  readonly summary: ArrayBufferLike;
}

interface QueueBlockBuffers {
  readonly owed: ArrayBufferLike;
  readonly owedSummary: ArrayBufferLike;
  readonly taken: ArrayBufferLike;
  readonly takenSummary: ArrayBufferLike;
}

/**
 * The most bytes of guest memory that a taker claims at a time: one call re-arms them, and one call finds their holes (`dataExtents` of
 * `@godwit/linux` asks `mincore` about as many at a time).
 */
const CHUNK_BYTES = 16 * 2 ** 20;

/** A pass with few pages has smaller chunks, so that each taker finds about this many of them. */
const CHUNKS_PER_TAKER = 4;

/** Chunks are multiples of this many pages, since a kernel re-arms whole 64-bit words of its bitmap. */
const UNIT_PAGES = 64;

/** Most pages of a chunk: those whose bits have one entry in the summary of a bitmap. */
const MOST_CHUNK_PAGES = 32 * 1024;

enum Word {
  /** The first chunk that nobody has claimed in this pass. */
  cursor,
  /** The number of the open pass; 0 while the queue is closed. */
  open,
  /** The number of pages in a chunk in this pass. */
  chunk,
  /** The number of pages that were taken for answers, modulo 2^32. */
  answered,
  /** 1 while takers get only pages that go first. */
  onlyFirst,
  count,
}

/**
 * The pages that the source owes to the destination: the only place where they are known.
 *
 * ```
 * harvest -> owe -> owed --take--> taken --acknowledged--> forgotten
 *                    ^               |
 *                    +---- restore --+      the link was lost: all that the destination does not name
 * ```
 *
 * Its bits are in shared memory. While it is open, takers on any thread (`PageTaker`) move pages from `owed` to `taken` with atomics, so
 * that each page goes to one taker, and never wait for each other or for an event loop. The thread that answers requests (`RequestAnswers`)
 * takes a requested page with `takeRange` at any time, ahead of all others. All other calls are for one thread, while it is closed.
 *
 * The queue has 2 bits for each page of RAM. Taking costs time for each owed page, and some milliseconds for each TiB with few scattered
 * owed pages.
 */
export class PageQueue {
  #buffers: PageQueueBuffers;
  #first: DirtyBitmaps | undefined;
  readonly #memory: GuestMemory;
  /** Pages that no taker has. Only to be read and set while the queue is closed. */
  readonly owed: DirtyBitmaps;
  /** Pages that takers have taken in this round, for any connection. */
  readonly taken: DirtyBitmaps;
  /** The most pages that a chunk may have. */
  readonly mostChunkPages: number;
  /** No run of pages crosses a multiple of this number of pages. */
  readonly windowPages: number;
  readonly #control: Int32Array;
  #pass = 0;

  private constructor(memory: GuestMemory, buffers: PageQueueBuffers) {
    const { blocks, control } = buffers;
    this.#buffers = buffers;
    this.#memory = memory;
    this.#first = buffers.first && firstOf(memory, buffers.first);
    this.owed = new DirtyBitmaps(
      memory,
      blocks.map((block) => block.owed),
      blocks.map((block) => block.owedSummary),
    );
    this.taken = new DirtyBitmaps(
      memory,
      blocks.map((block) => block.taken),
      blocks.map((block) => block.takenSummary),
    );
    this.#control = new Int32Array(control);
    this.windowPages = RAM_WINDOW_BYTES / memory.pageSize;
    this.mostChunkPages = Math.min(MOST_CHUNK_PAGES, Math.max(UNIT_PAGES, CHUNK_BYTES / memory.pageSize));
  }

  /** Makes an empty queue, closed, for the blocks of `memory`. */
  static create(memory: GuestMemory): PageQueue {
    const blocks = memory.blocks.map((block): QueueBlockBuffers => {
      const pages = pagesOf(memory, block);
      const [bits, summary] = [DirtyBitmap.storageBytes(pages), DirtyBitmap.summaryBytes(pages)];
      return {
        owed: sharedBuffer(bits),
        owedSummary: sharedBuffer(summary),
        taken: sharedBuffer(bits),
        takenSummary: sharedBuffer(summary),
      };
    });
    return new PageQueue(memory, {
      control: sharedBuffer(Word.count * Int32Array.BYTES_PER_ELEMENT),
      blocks,
    });
  }

  /** Makes the same queue on another thread, which sees the same memory. */
  static join(memory: GuestMemory, buffers: PageQueueBuffers): PageQueue {
    return new PageQueue(memory, buffers);
  }

  /** The queue's memory, which another thread joins. */
  get buffers(): PageQueueBuffers {
    return this.#buffers;
  }

  /** Has these pages go before the others in passes that ask for it. Called before another thread joins; takes 1 bit more for each page. */
  prefer(pages: DirtyBitmaps): void {
    const first = pages.blocks.map(({ pageCount }): FirstBuffers => {
      const [bits, summary] = [DirtyBitmap.storageBytes(pageCount), DirtyBitmap.summaryBytes(pageCount)];
      return { bits: sharedBuffer(bits), summary: sharedBuffer(summary) };
    });
    this.#buffers = { ...this.#buffers, first };
    this.#first = firstOf(this.#memory, first);
    this.#first.or(pages);
  }

  /** The pages that go before the others (`prefer`); undefined: none. */
  get first(): DirtyBitmaps | undefined {
    return this.#first;
  }

  /** In a pass of pages that go first: these pages; undefined in any other. */
  get only(): DirtyBitmaps | undefined {
    return Atomics.load(this.#control, Word.onlyFirst) === 0 ? undefined : this.#first;
  }

  /** Number of pages that no taker has. */
  count(): number {
    return this.owed.count();
  }

  /** Adds pages. */
  owe(pages: DirtyBitmaps): void {
    this.owed.or(pages);
  }

  /** Empties the queue. */
  clear(): void {
    this.owed.clearAll();
    this.taken.clearAll();
  }

  /**
   * Lets takers take, from the first page on, and returns the number of this pass: a taker of an earlier pass gets no pages. `takers`: how
   * many takers are to share `pages` pages. With `onlyFirst` they get the pages of `prefer` only.
   */
  open(takers = 1, pages = this.count(), onlyFirst = false): number {
    this.#pass = (this.#pass + 1) | 0 || 1;
    let chunkPages = this.mostChunkPages;
    while (chunkPages > UNIT_PAGES && chunkPages * takers * CHUNKS_PER_TAKER > pages) chunkPages /= 2;
    Atomics.store(this.#control, Word.chunk, chunkPages);
    Atomics.store(this.#control, Word.onlyFirst, onlyFirst ? 1 : 0);
    Atomics.store(this.#control, Word.cursor, 0);
    Atomics.store(this.#control, Word.open, this.#pass);
    return this.#pass;
  }

  /** Closes the queue: takers get no more pages from their next call on. */
  close(): void {
    Atomics.store(this.#control, Word.open, 0);
  }

  /** Whether takers of this pass may take. */
  isOpen(pass: number): boolean {
    return pass !== 0 && Atomics.load(this.#control, Word.open) === pass;
  }

  /** Forgets the pages that were taken, since the destination has all of them. Pages that no taker has taken stay. */
  acknowledged(): void {
    this.taken.clearAll();
    // Taking a page does not clear its chunk in the summary; `clearAll` does.
    if (this.owed.isEmpty()) this.owed.clearAll();
  }

  /**
   * After a lost link in the middle of a round, makes the taken pages owed again, except for those that the destination has `received`.
   * Returns false, and changes nothing, when `received` has a page that was not taken.
   */
  restore(received: DirtyBitmaps): boolean {
    if (!this.taken.contains(received)) return false;
    this.owed.or(this.taken);
    this.owed.andNot(received);
    return true;
  }

  /** The number of pages in a chunk in this pass: chunks begin at multiples of it in their block. */
  get chunkPages(): number {
    return Atomics.load(this.#control, Word.chunk);
  }

  /** The number of the first chunk of each block, for chunks of `chunkPages` pages; the last entry is the number of all chunks. */
  firstChunks(chunkPages: number): readonly number[] {
    const first = [0];
    for (const { pageCount } of this.owed.blocks) {
      first.push((first.at(-1) as number) + Math.ceil(pageCount / chunkPages));
    }
    return first;
  }

  /** The first chunk that no taker has claimed. */
  get cursor(): number {
    return Atomics.load(this.#control, Word.cursor);
  }

  /**
   * Claims the chunks from `at` up to, not including, `next`. Returns false when another thread has claimed chunks since `cursor` was read.
   */
  claim(at: number, next: number): boolean {
    return Atomics.compareExchange(this.#control, Word.cursor, at, next) === at;
  }

  /**
   * Moves the owed pages of a range from `owed` to `taken`, and appends them to `into`, cut at windows. Returns their number. Any thread
   * may call it.
   */
  takeRange(block: number, firstPage: number, pageCount: number, into: PageRunList): number {
    const owed = this.owed.at(block);
    const taken = this.taken.at(block);
    const end = firstPage + pageCount;
    let pages = 0;
    for (let page = firstPage; page < end; ) {
      const at = Math.floor(page / 32);
      const stop = Math.min(end, (at + 1) * 32);
      const mask = (-1 << (page % 32)) & (stop % 32 === 0 ? -1 : ~(-1 << (stop % 32)));
      const moved = owed.moveWord(at, mask, taken);
      if (moved === mask >>> 0) {
        this.#push(into, page, stop - page);
        pages += stop - page;
      } else if (moved !== 0) {
        for (let one = page; one < stop; one++) {
          if ((moved & (1 << (one % 32))) === 0) continue;
          this.#push(into, one, 1);
          pages++;
        }
      }
      page = stop;
    }
    return pages;
  }

  /** Does the same as `takeRange`, for the answer to a request. */
  takeAnswer(block: number, firstPage: number, pageCount: number, into: PageRunList): void {
    const pages = this.takeRange(block, firstPage, pageCount, into);
    if (pages > 0) Atomics.add(this.#control, Word.answered, pages);
  }

  /** Number of pages that were owed and were taken for answers, modulo 2^32. Any thread may read it. */
  get answeredPages(): number {
    return Atomics.load(this.#control, Word.answered) >>> 0;
  }

  #push(into: PageRunList, page: number, pages: number): void {
    if (page % this.windowPages === 0) into.pushApart(page, pages);
    else into.push(page, pages);
  }
}

function firstOf(memory: GuestMemory, first: readonly FirstBuffers[]): DirtyBitmaps {
  const [bits, summaries] = [first.map((block) => block.bits), first.map((block) => block.summary)];
  return new DirtyBitmaps(memory, bits, summaries);
}

/** Makes memory that other threads can see, where `SharedArrayBuffer` exists: a browser has it only on isolated pages. */
function sharedBuffer(bytes: number): ArrayBufferLike {
  return typeof SharedArrayBuffer === 'undefined' ? new ArrayBuffer(bytes) : new SharedArrayBuffer(bytes);
}
