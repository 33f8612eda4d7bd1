import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { ReceivedPages } from '../migration-event.js';

/** What another thread needs to take part in an incoming migration; goes through `postMessage` as it is. */
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
  count,
}

/**
 * What all readers of the page channels of one connection share, on whichever threads they are: the round, which pages are
 * no longer zero, how many have come, and whether anything may still be written.
 *
 * `admit` and `seal` are each other's opposite (each first says what it does and then looks at what the other said), so
 * that of a frame and a seal that meet, at least one is refused.
 */
export class PageBoard {
  /** To be handed to other threads; undefined when the board is this thread's alone. */
  readonly buffers: PageBoardBuffers | undefined;
  /** Pages of guest memory that are not known to be zero. */
  readonly touched: DirtyBitmaps;
  /** Pages of the current round that are wholly in guest memory: what need not be sent again after a lost link. */
  readonly received: DirtyBitmaps;
  readonly #words: Int32Array;
  /** One of each kind for each channel. */
  readonly #pages: BigInt64Array;
  /** What came over connections before. */
  #past: ReceivedPages = { raw: 0, zero: 0, delta: 0, compressed: 0 };

  private constructor(memory: GuestMemory, channels: number, buffers: PageBoardBuffers | undefined) {
    this.buffers = buffers;
    this.touched = new DirtyBitmaps(memory, buffers?.touched);
    this.received = new DirtyBitmaps(memory, buffers?.received);
    this.#words = buffers === undefined ? new Int32Array(Word.count) : new Int32Array(buffers.words);
    this.#pages = buffers === undefined ? new BigInt64Array(channels * KINDS.length) : new BigInt64Array(buffers.pages);
  }

  /**
   * With `shared`, other threads can join. For memory that is all zero, and round 1; or for what is in memory after
   * `before`, the board of a connection whose readers have all ended.
   */
  static create(memory: GuestMemory, channels: number, shared: boolean, before?: PageBoard): PageBoard {
    const buffers = shared
      ? {
          words: new SharedArrayBuffer(Word.count * Int32Array.BYTES_PER_ELEMENT),
          pages: new SharedArrayBuffer(channels * KINDS.length * BigInt64Array.BYTES_PER_ELEMENT),
          touched: DirtyBitmaps.sharedStorage(memory),
          received: DirtyBitmaps.sharedStorage(memory),
        }
      : undefined;
    const board = new PageBoard(memory, channels, buffers);
    Atomics.store(board.#words, Word.round, before?.round ?? 1);
    if (before !== undefined) {
      board.touched.or(before.touched);
      board.received.or(before.received);
      board.#past = before.totals();
      if (before.sealed) Atomics.store(board.#words, Word.sealed, 1);
    }
    return board;
  }

  /** The same board on another thread. */
  static join(memory: GuestMemory, buffers: PageBoardBuffers): PageBoard {
    return new PageBoard(memory, 0, buffers);
  }

  /** The round that is being received, from 1. */
  get round(): number {
    return Atomics.load(this.#words, Word.round);
  }

  /** True once the last page has come. */
  get sealed(): boolean {
    return Atomics.load(this.#words, Word.sealed) !== 0;
  }

  /** True once the connection is over: what still arrives is ignored. */
  get stopped(): boolean {
    return Atomics.load(this.#words, Word.stopped) !== 0;
  }

  stop(): void {
    Atomics.store(this.#words, Word.stopped, 1);
  }

  /** Says that a frame of the round has come, before it is looked at. False when it must not touch memory any more. */
  admit(): boolean {
    Atomics.add(this.#words, Word.begun, 1);
    return !this.sealed;
  }

  /** The source has given its stop-and-copy up: frames may come again. */
  unseal(): void {
    Atomics.store(this.#words, Word.sealed, 0);
  }

  /** Says that nothing may come any more. False when frames of this round have come already. */
  seal(): boolean {
    Atomics.store(this.#words, Word.sealed, 1);
    return Atomics.load(this.#words, Word.begun) === 0;
  }

  /** Opens the next round; every channel has ended this one. */
  nextRound(): void {
    this.received.clearAll();
    Atomics.store(this.#words, Word.begun, 0);
    Atomics.add(this.#words, Word.round, 1);
  }

  /** Pages of one channel are in guest memory. */
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
