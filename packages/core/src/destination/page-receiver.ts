import type { Clock } from '../clock.js';
import type { PageEncoding } from '../encoding/page-encoding.js';
import { GodwitError } from '../errors.js';
import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import type { ReceivedPages } from '../migration-event.js';
import type { MissingSink } from '../missing/missing-sink.js';
import { clearUnnamed } from './clear-unnamed.js';
import { PageBoard } from './page-board.js';
import { PageWriter } from './page-writer.js';

/**
 * Joins the page channels of one connection: a round ends when every channel has ended it. Each channel's frames are handled by its
 * `PageWriter`, on this thread or on the channel's own.
 */
export class PageReceiver {
  readonly board: PageBoard;
  readonly windows: MemoryWindows;
  /** The encodings that both sides use. */
  readonly encodings: readonly PageEncoding[];
  readonly #writers: readonly PageWriter[];
  readonly #clock: Clock;
  readonly #ended = new Set<number>();
  #roundPages = 0;

  /**
   * `before`: the pages that may have contents when the migration begins, or the receiver of the connection before. With `shared`, the
   * board can be passed to other threads. `missingSink` returns the sink of a channel (see `PageWriter`).
   */
  constructor(
    windows: MemoryWindows,
    channels: number,
    clock: Clock,
    encodings: readonly PageEncoding[],
    shared = false,
    before?: PageReceiver | DirtyBitmaps,
    missingSink?: (channel: number) => MissingSink,
  ) {
    this.windows = windows;
    this.#clock = clock;
    this.encodings = encodings;
    this.board = PageBoard.create(
      windows.memory,
      channels,
      shared,
      before instanceof PageReceiver ? before.board : before,
    );
    this.#writers = Array.from(
      { length: channels },
      (_, channel) =>
        new PageWriter(channel, windows, this.board, clock, encodings, missingSink && (() => missingSink(channel))),
    );
  }

  get totals(): ReceivedPages {
    return this.board.totals();
  }

  /** The round that is being received, from 1. */
  get round(): number {
    return this.board.round;
  }

  /** The writer of a channel that is read on this thread. */
  writer(channel: number): PageWriter {
    return this.#writers[channel] as PageWriter;
  }

  /**
   * Notes that a channel has ended the round, with `pages` pages. Returns the pages of the whole round when this was the last channel
   * to end it, else `undefined`.
   */
  channelEnded(channel: number, pages: number): number | undefined {
    this.#ended.add(channel);
    this.#roundPages += pages;
    return this.#ended.size < this.#writers.length ? undefined : this.#roundPages;
  }

  /**
   * Clears the pages that the round has not named, once every channel has ended it. Returns `undefined` when there is nothing to clear,
   * else a promise, which rejects with `GODWIT_LINK_LOST` once `isOver`. The next round begins only after that: if the link is lost,
   * the source ends this round again.
   */
  clearUnnamed(isOver: () => boolean): Promise<void> | undefined {
    const { touched, received } = this.board;
    // The pages of a running guest are its own, and none of them had contents of before the migration when it began to run.
    if (this.board.missing || this.round > 1 || received.contains(touched)) return undefined;
    return clearUnnamed(this.windows, this.board, this.#clock, isOver);
  }

  /** Begins the next round. */
  nextRound(): void {
    this.#roundPages = 0;
    this.#ended.clear();
    this.board.nextRound();
  }

  /**
   * Refuses all further pages: the source says that `round` was its last one. Throws `GODWIT_PROTOCOL` unless it has ended and the next
   * one has not begun.
   */
  seal(round: number): void {
    const begun = !this.board.seal();
    if (round === this.round - 1 && round !== 0 && !begun) return;
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      `"switchover" after round ${round}, but round ${this.round - 1} was the last to end` +
        (begun ? ` and round ${this.round} has begun` : ''),
    );
  }

  /** Admits pages again: the source has given up its stop-and-copy. */
  unseal(): void {
    this.board.unseal();
  }

  /** True once the source has sent its last page: a page channel may then end. */
  get sealed(): boolean {
    return this.board.sealed;
  }
}
