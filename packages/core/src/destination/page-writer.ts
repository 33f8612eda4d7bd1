import type { Clock } from '../clock.js';
import type { PageEncoding } from '../encoding/page-encoding.js';
import { GodwitError } from '../errors.js';
import type { FrameStream } from '../link/frame-stream.js';
import type { GuestMemory, RamBlock } from '../memory/guest-memory.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import type { ReceivedPages } from '../migration-event.js';
import { type MissingSink, putPayload, putRuns } from '../missing/missing-sink.js';
import type {
  AnyPagesFrame,
  CompressedPagesFrame,
  DeltaPagesFrame,
  PagesFrame,
  RoundEndFrame,
  ZeroPagesFrame,
} from '../protocol/frame.js';
import { SinkChoice } from '../sink/choose-sink.js';
import type { PageBoard } from './page-board.js';
import { PageDecoder } from './page-decoder.js';
import { checkRuns } from './run-check.js';
import { zeroRun } from './zero-run.js';

/**
 * Writes the pages of one channel from its stream into guest memory, without a copy, on the channel's thread: each run through the sink
 * that `SinkChoice` chooses for it.
 *
 * Once the guest runs here (`PageBoard.missing`) its pages go through a `MissingSink` instead.
 *
 * The board knows which pages may be other than zero: those with contents from before the migration, and those written since. Every
 * other page is already zero and is not written when it comes as a zero page, so that a sparse guest stays sparse.
 */
export class PageWriter {
  readonly channel: number;
  readonly board: PageBoard;
  readonly #clock: Clock;
  readonly #windows: MemoryWindows;
  readonly #memory: GuestMemory;
  readonly #decoder: PageDecoder;
  readonly #sinks: SinkChoice;
  readonly #missingSink: () => MissingSink;
  /** Pages of the current round, to compare with the number in `roundEnd`. */
  #roundPages = 0;
  #endedRound = 0;

  /** `encodings`: those that both sides use. `missingSink` is called for each frame that comes while pages are missing. */
  constructor(
    channel: number,
    windows: MemoryWindows,
    board: PageBoard,
    clock: Clock,
    encodings: readonly PageEncoding[] = [],
    missingSink: () => MissingSink = nothingMissing,
  ) {
    this.#missingSink = missingSink;
    this.channel = channel;
    this.board = board;
    this.#windows = windows;
    this.#memory = windows.memory;
    this.#clock = clock;
    this.#decoder = new PageDecoder(windows, encodings);
    this.#sinks = new SinkChoice(windows, board.touched);
  }

  async pages(stream: FrameStream, frame: PagesFrame, payloadBytes: number): Promise<void> {
    const pages = this.#admit(frame);
    if (payloadBytes !== pages * this.#memory.pageSize) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `a "pages" frame has ${pages} pages of ${this.#memory.pageSize} bytes but a payload of ${payloadBytes} bytes`,
      );
    }
    if (this.board.missing) {
      this.#touch(frame);
      await putPayload(this.#missingSink(), stream, frame, payloadBytes, this.#memory.pageSize);
    } else {
      const into = this.#sinks.targets(frame.block, frame.runs, stream.takesFiles === true);
      this.#touch(frame);
      await stream.readPayload(into);
    }
    this.#arrived(frame, pages, 'raw');
  }

  async deltaPages(stream: FrameStream, frame: DeltaPagesFrame, payloadBytes: number): Promise<void> {
    const pages = this.#admit(frame);
    if (this.board.missing) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        'a "deltaPages" frame came for pages that are missing: a delta needs what was there',
      );
    }
    // The base of a delta of a page that never came is zeros.
    if (this.board.round === 1) await this.#clear(frame);
    this.#touch(frame);
    await this.#decoder.deltas(stream, frame, payloadBytes, pages);
    this.#arrived(frame, pages, 'delta');
  }

  async compressedPages(stream: FrameStream, frame: CompressedPagesFrame, payloadBytes: number): Promise<void> {
    const pages = this.#admit(frame);
    this.#touch(frame);
    if (this.board.missing) {
      const contents = await this.#decoder.contents(stream, frame, payloadBytes, pages);
      const sink = this.#missingSink();
      sink.bytes.set(contents);
      putRuns(sink, frame.block, frame.runs, this.#memory.pageSize);
    } else await this.#decoder.compressed(stream, frame, payloadBytes, pages);
    this.#arrived(frame, pages, 'compressed');
  }

  async zeroPages(frame: ZeroPagesFrame): Promise<void> {
    const pages = this.#admit(frame);
    if (this.board.missing) {
      const sink = this.#missingSink();
      for (let i = 0; i < frame.runs.length; i += 2) {
        sink.putZero(frame.block, frame.runs[i] as number, frame.runs[i + 1] as number);
      }
    } else await this.#clear(frame);
    this.#arrived(frame, pages, 'zero');
  }

  /** Ends the round on this channel; returns the number of its pages. Throws `GODWIT_PROTOCOL` when the source counted differently. */
  roundEnd(frame: RoundEndFrame): number {
    this.#checkRound(frame.round, 'roundEnd');
    const pages = this.#roundPages;
    if (frame.pages !== pages) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `round ${frame.round}: the source sent ${frame.pages} pages on channel ${this.channel}, ${pages} arrived`,
      );
    }
    this.#roundPages = 0;
    this.#endedRound = frame.round;
    return pages;
  }

  /** Makes those pages of a frame zero that may be other than zero. */
  async #clear(frame: AnyPagesFrame): Promise<void> {
    const touched = this.board.touched.at(frame.block);
    const block = this.#memory.blocks[frame.block] as RamBlock;
    for (let i = 0; i < frame.runs.length; i += 2) {
      const end = (frame.runs[i] as number) + (frame.runs[i + 1] as number);
      let first = touched.nextDirty(frame.runs[i] as number, end);
      while (first !== -1) {
        const stop = Math.min(touched.nextClean(first), end);
        const run = { firstPage: first, pageCount: stop - first };
        await zeroRun(this.#windows, block, frame.block, run, this.#clock, () => this.board.stopped);
        // The bits are cleared only after the pages: if the thread ends in between, the bits still say that the pages may be other than
        // zero.
        touched.clearRange(first, stop - first);
        if (stop >= end) break;
        first = touched.nextDirty(stop, end);
      }
    }
  }

  /** Notes that these pages may be other than zero from now on. */
  #touch({ block, runs }: AnyPagesFrame): void {
    const touched = this.board.touched.at(block);
    for (let i = 0; i < runs.length; i += 2) touched.setRange(runs[i] as number, runs[i + 1] as number);
  }

  /** Counts a frame whose pages are all in guest memory. A frame that was cut is not counted: the source still owes its pages. */
  #arrived({ block, runs }: AnyPagesFrame, pages: number, kind: keyof ReceivedPages): void {
    const received = this.board.received.at(block);
    for (let i = 0; i < runs.length; i += 2) received.setRange(runs[i] as number, runs[i + 1] as number);
    this.#roundPages += pages;
    this.board.count(this.channel, kind, pages);
  }

  #admit(frame: AnyPagesFrame): number {
    this.#checkRound(frame.round, frame.type);
    return checkRuns(this.#memory, frame.block, frame.runs, frame.type);
  }

  #checkRound(round: number, type: string): void {
    if (!this.board.admit()) {
      throw new GodwitError('GODWIT_PROTOCOL', `a "${type}" frame came on channel ${this.channel} after "switchover"`);
    }
    const current = this.board.round;
    const ended = this.#endedRound === current;
    if (round === current && !ended) return;
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      `a "${type}" frame of round ${round} came on channel ${this.channel} in round ${current}` +
        (ended ? ', which this channel has ended' : ''),
    );
  }
}

function nothingMissing(): never {
  throw new GodwitError('GODWIT_INTERNAL', 'pages came for a running guest whose missing pages nobody puts there');
}
