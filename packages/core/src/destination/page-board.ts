import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { ReceivedPages } from '../migration-event.js';

/** The shared buffers of a board, which can be passed to another thread by `postMessage` as they are. */
export interface PageBoardBuffers {
  readonly words: SharedArrayBuffer;
  readonly pages: SharedArrayBuffer;
  readonly touched: readonly SharedArrayBuffer[];
  readonly received: readonly SharedArrayBuffer[];
}

/** Kinds of pages that are counted, in the order of their counters. */
const KINDS = ['raw', 'zero', 'delta', 'compressed'] as const satisfies readonly (keyof ReceivedPages)[];

enum Word {
  round,
  begun,
  sealed,
  stopped,
  /** 1 while pages are missing and are put by a `MissingSink`. */
  missing,
  count,
}

/**
 * The state that all readers of the page channels of one connection share, on any thread: the round, the pages that are not known to
 * be zero, the counts of received pages, and whether guest memory may still be written.
 *
 * `admit` stores its word and then reads that of `seal`, and `seal` stores its own and then reads that of `admit`: if a frame and a
 * seal come at the same time, at least one of them is refused.
 */
export class PageBoard {
  /** The buffers for other threads; `undefined` when the board is not shared. */
  readonly buffers: PageBoardBuffers | undefined;
  /** Pages of guest memory that are not known to be zero. */
  readonly touched: DirtyBitmaps;
  /** Pages of the current round that are wholly in guest memory: they need not be sent again after a lost link. */
  readonly received: DirtyBitmaps;
  readonly #words: Int32Array;
  /** A counter of each kind for each channel. */
  readonly #pages: BigInt64Array;
  /** The pages that came over earlier connections. */
  #past: ReceivedPages = { raw: 0, zero: 0, delta: 0, compressed: 0 };

  private constructor(memory: GuestMemory, channels: number, buffers: PageBoardBuffers | undefined) {
    this.buffers = buffers;
    this.touched = new DirtyBitmaps(memory, buffers?.touched);
    this.received = new DirtyBitmaps(memory, buffers?.received);
    this.#words = buffers === undefined ? new Int32Array(Word.count) : new Int32Array(buffers.words);
    this.#pages = buffers === undefined ? new BigInt64Array(channels * KINDS.length) : new BigInt64Array(buffers.pages);
  }

  /**
   * Makes a board in round 1 for memory of which the pages in `before` may have contents (default: none); or a board that continues
   * `before`, the board of a connection whose readers have all ended. With `shared`, other threads can `join` it.
   */
  static create(memory: GuestMemory, channels: number, shared: boolean, before?: PageBoard | DirtyBitmaps): PageBoard {
    const buffers = shared
      ? {
          words: new SharedArrayBuffer(Word.count * Int32Array.BYTES_PER_ELEMENT),
          pages: new SharedArrayBuffer(channels * KINDS.length * BigInt64Array.BYTES_PER_ELEMENT),
          touched: DirtyBitmaps.sharedStorage(memory),
          received: DirtyBitmaps.sharedStorage(memory),
        }
      : undefined;
    const board = new PageBoard(memory, channels, buffers);
    Atomics.store(board.#words, Word.round, before instanceof PageBoard ? before.round : 1);
    if (before instanceof DirtyBitmaps) board.touched.or(before);
    else if (before !== undefined) {
      board.touched.or(before.touched);
      board.received.or(before.received);
      board.#past = before.totals();
      if (before.sealed) Atomics.store(board.#words, Word.sealed, 1);
      if (before.missing) board.beginMissing();
    }
    return board;
  }

  /** Makes the same board on another thread. */
  static join(memory: GuestMemory, buffers: PageBoardBuffers): PageBoard {
    return new PageBoard(memory, 0, buffers);
  }

  /** The round that is being received, from 1. */
  get round(): number {
    return Atomics.load(this.#words, Word.round);
  }

  /** True once the source has sent its last page, unless it goes back: further pages are refused. */
  get sealed(): boolean {
    return Atomics.load(this.#words, Word.sealed) !== 0;
  }

  /** True once the connection is over: frames that still arrive are ignored. */
  get stopped(): boolean {
    return Atomics.load(this.#words, Word.stopped) !== 0;
  }

  stop(): void {
    Atomics.store(this.#words, Word.stopped, 1);
  }

  /** Notes that a frame of the round has come, before it is handled. Returns false when it must not touch guest memory. */
  admit(): boolean {
    Atomics.add(this.#words, Word.begun, 1);
    return !this.sealed;
  }

  /** Admits frames again, after the source has given up its stop-and-copy. */
  unseal(): void {
    Atomics.store(this.#words, Word.sealed, 0);
  }

  /** Admits no more frames. Returns false when frames of this round have come already. */
  seal(): boolean {
    Atomics.store(this.#words, Word.sealed, 1);
    return Atomics.load(this.#words, Word.begun) === 0;
  }

  /** From now on the guest may run, and each page is put by a `MissingSink`. */
  beginMissing(): void {
    Atomics.store(this.#words, Word.missing, 1);
  }

  /** From now on pages are written directly again: the guest runs at the source. */
  endMissing(): void {
    Atomics.store(this.#words, Word.missing, 0);
  }

  get missing(): boolean {
    return Atomics.load(this.#words, Word.missing) !== 0;
  }

  /** Begins the next round; every channel has ended this one. */
  nextRound(): void {
    this.received.clearAll();
    Atomics.store(this.#words, Word.begun, 0);
    Atomics.add(this.#words, Word.round, 1);
  }

  /** Counts pages of one channel that are in guest memory. */
  count(channel: number, kind: keyof ReceivedPages, pages: number): void {
    Atomics.add(this.#pages, channel * KINDS.length + KINDS.indexOf(kind), BigInt(pages));
  }

  /** Pages received so far, on all channels and in all rounds. */
  totals(): ReceivedPages {
    const sum = { ...this.#past };
    for (let i = 0; i < this.#pages.length; i++) {
      sum[KINDS[i % KINDS.length] as keyof ReceivedPages] += Number(Atomics.load(this.#pages, i));
    }
    return sum;
  }
}
