import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import type { PagesFrame, RoundEndFrame, ZeroPagesFrame } from '../link/frame.js';
import type { FrameStream } from '../link/frame-stream.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory, RamBlock } from '../memory/guest-memory.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import { checkRuns } from './run-check.js';
import { zeroRun } from './zero-run.js';

/** Totals of what was received. */
export interface ReceivedPages {
  raw: number;
  zero: number;
}

/**
 * Writes received pages into guest memory, straight from the stream, on behalf of all page channels.
 *
 * Memory starts as all zero (`makePristine`), and `touched` remembers which pages are no longer: a zero page that was
 * never touched is left alone, so that a sparse guest stays sparse.
 */
export class PageReceiver {
  readonly totals: ReceivedPages = { raw: 0, zero: 0 };
  readonly #clock: Clock;
  readonly #windows: MemoryWindows;
  readonly #memory: GuestMemory;
  readonly #touched: DirtyBitmaps;
  /** Pages of the current round by channel, to compare with what its `roundEnd` says. */
  readonly #perChannel: number[];
  readonly #ended = new Set<number>();
  #round = 1;
  #roundPages = 0;
  /** Frames whose pages are being read into memory. */
  #reading = 0;
  #sealed = false;

  /** `windows` must be pristine. */
  constructor(windows: MemoryWindows, channels: number, clock: Clock) {
    this.#clock = clock;
    this.#windows = windows;
    this.#memory = windows.memory;
    this.#touched = new DirtyBitmaps(windows.memory);
    this.#perChannel = new Array(channels).fill(0);
  }

  /** The round that is being received, from 1. */
  get round(): number {
    return this.#round;
  }

  async pages(channel: number, stream: FrameStream, frame: PagesFrame, payloadBytes: number): Promise<void> {
    const pages = this.#admit(channel, frame);
    if (payloadBytes !== pages * this.#memory.pageSize) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `a "pages" frame has ${pages} pages of ${this.#memory.pageSize} bytes but a payload of ${payloadBytes} bytes`,
      );
    }
    const touched = this.#touched.at(frame.block);
    const into: Uint8Array[] = [];
    for (let i = 0; i < frame.runs.length; i += 2) {
      const first = frame.runs[i] as number;
      const count = frame.runs[i + 1] as number;
      this.#windows.appendViews(into, frame.block, first, count);
      touched.setRange(first, count);
    }
    this.#reading++;
    try {
      await stream.readPayload(into);
    } finally {
      this.#reading--;
    }
    this.#count(channel, pages);
    this.totals.raw += pages;
  }

  async zeroPages(channel: number, frame: ZeroPagesFrame): Promise<void> {
    const pages = this.#admit(channel, frame);
    const touched = this.#touched.at(frame.block);
    const block = this.#memory.blocks[frame.block] as RamBlock;
    for (let i = 0; i < frame.runs.length; i += 2) {
      const end = (frame.runs[i] as number) + (frame.runs[i + 1] as number);
      let first = touched.nextDirty(frame.runs[i] as number);
      while (first !== -1 && first < end) {
        const stop = Math.min(touched.nextClean(first), end);
        touched.clearRange(first, stop - first);
        await zeroRun(this.#windows, block, frame.block, { firstPage: first, pageCount: stop - first }, this.#clock);
        if (stop >= end) break;
        first = touched.nextDirty(stop);
      }
    }
    this.#count(channel, pages);
    this.totals.zero += pages;
  }

  /** Returns the number of pages of the round when this was the last channel to end it, else `undefined`. */
  roundEnd(channel: number, frame: RoundEndFrame): number | undefined {
    this.#checkRound(channel, frame.round, 'roundEnd');
    const received = this.#perChannel[channel] as number;
    if (frame.pages !== received) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `round ${frame.round}: the source sent ${frame.pages} pages on channel ${channel}, ${received} arrived`,
      );
    }
    this.#ended.add(channel);
    if (this.#ended.size < this.#perChannel.length) return undefined;
    const pages = this.#roundPages;
    this.#round++;
    this.#roundPages = 0;
    this.#perChannel.fill(0);
    this.#ended.clear();
    return pages;
  }

  /**
   * From now on nobody writes guest memory: the source says that round `round` was the last. It must have ended, and the
   * next one must not have begun.
   */
  seal(round: number): void {
    const begun = this.#roundPages > 0 || this.#reading > 0 || this.#ended.size > 0;
    if (round !== this.#round - 1 || round === 0 || begun) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `"switchover" after round ${round}, but round ${this.#round - 1} was the last to end` +
          (begun ? ` and round ${this.#round} has begun` : ''),
      );
    }
    this.#sealed = true;
  }

  /** True once the last page has come: a page channel may then end. */
  get sealed(): boolean {
    return this.#sealed;
  }

  #admit(channel: number, frame: PagesFrame | ZeroPagesFrame): number {
    this.#checkRound(channel, frame.round, frame.type);
    return checkRuns(this.#memory, frame.block, frame.runs, frame.type);
  }

  #checkRound(channel: number, round: number, type: string): void {
    if (this.#sealed) {
      throw new GodwitError('GODWIT_PROTOCOL', `a "${type}" frame came on channel ${channel} after "switchover"`);
    }
    if (round === this.#round && !this.#ended.has(channel)) return;
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      `a "${type}" frame of round ${round} came on channel ${channel} in round ${this.#round}` +
        (this.#ended.has(channel) ? ', which this channel has ended' : ''),
    );
  }

  #count(channel: number, pages: number): void {
    this.#perChannel[channel] = (this.#perChannel[channel] as number) + pages;
    this.#roundPages += pages;
  }
}
