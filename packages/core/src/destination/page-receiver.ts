import type { Clock } from '../clock.js';
import type { PageEncoding } from '../encoding/page-encoding.js';
import { GodwitError } from '../errors.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import type { ReceivedPages } from '../migration-event.js';
import { PageBoard } from './page-board.js';
import { PageWriter } from './page-writer.js';

/**
 * Brings the page channels of one connection together: a round ends when every channel has ended it. What a channel does with
 * its frames is its writer's business, here or on a thread of its own.
 */
export class PageReceiver {
  readonly board: PageBoard;
  readonly windows: MemoryWindows;
  /** Those that were agreed on. */
  readonly encodings: readonly PageEncoding[];
  readonly #writers: readonly PageWriter[];
  readonly #ended = new Set<number>();
  #roundPages = 0;

  /**
   * `windows` must be pristine, or what the connection of `before` has left. `encodings`: those that were agreed on. With
   * `shared`, the board can be handed to other threads.
   */
  constructor(
    windows: MemoryWindows,
    channels: number,
    clock: Clock,
    encodings: readonly PageEncoding[],
    shared = false,
    before?: PageReceiver,
  ) {
    this.windows = windows;
    this.encodings = encodings;
    this.board = PageBoard.create(windows.memory, channels, shared, before?.board);
    this.#writers = Array.from(
      { length: channels },
      (_, channel) => new PageWriter(channel, windows, this.board, clock, encodings),
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
   * A channel's writer has ended the round, after `pages` pages. Returns the number of pages of the round when this was
   * the last channel to end it, else `undefined`.
   */
  channelEnded(channel: number, pages: number): number | undefined {
    this.#ended.add(channel);
    this.#roundPages += pages;
    if (this.#ended.size < this.#writers.length) return undefined;
    const all = this.#roundPages;
    this.#roundPages = 0;
    this.#ended.clear();
    this.board.nextRound();
    return all;
  }

  /**
   * From now on nobody writes guest memory: the source says that round `round` was the last. It must have ended, and the
   * next one must not have begun.
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

  /** The source has given its stop-and-copy up, and sends pages again. */
  unseal(): void {
    this.board.unseal();
  }

  /** True once the last page has come: a page channel may then end. */
  get sealed(): boolean {
    return this.board.sealed;
  }
}
