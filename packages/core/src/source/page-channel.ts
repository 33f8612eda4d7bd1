import type { Clock } from '../clock.js';
import type { FrameStream } from '../link/frame-stream.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import { PageRunList } from '../memory/page-run.js';
import { splitZeroPages } from '../memory/zero-page.js';

/** A batch of page runs of one block: the unit of work that crosses a channel or a thread. Runs, never bytes. */
export interface PageBatch {
  readonly round: number;
  readonly blockIndex: number;
  /** Pages to read, classify and send. No run crosses a memory window. */
  readonly runs: PageRunList;
  /** Pages known to have no memory behind them: sent as zero, never read. */
  readonly holes: PageRunList;
}

/** Running totals of what a channel has sent; the difference of two snapshots is a round's share. */
export interface PageChannelTotals {
  raw: number;
  zero: number;
  hole: number;
  scanMs: number;
}

/**
 * The source's end of a page channel: owns reading guest memory, classifying pages, framing and writing.
 *
 * Pages are written by reference. A page whose content changes while it is on its way is dirty again, since its
 * tracker was re-armed before the batch was handed over.
 */
export interface PageChannel {
  readonly totals: Readonly<PageChannelTotals>;
  /**
   * Bytes that the channel's stream has carried so far, framing included, and those of payloads that it is writing: what
   * the bandwidth limit counts, however many batches are on their way.
   */
  readonly wireBytes: number;
  /** Settles when the batch's memory is no longer borrowed and its runs may be reused: that is the back-pressure. */
  send(batch: PageBatch): Promise<void>;
  /** Says that this channel carries nothing more of the round. */
  endRound(round: number): Promise<void>;
}

/** A page channel on this thread, over one frame stream. */
export class LocalPageChannel implements PageChannel {
  readonly totals: PageChannelTotals = { raw: 0, zero: 0, hole: 0, scanMs: 0 };
  readonly #stream: FrameStream;
  readonly #windows: MemoryWindows;
  readonly #clock: Clock;
  readonly #nonZero = new PageRunList(256);
  readonly #zero = new PageRunList(256);
  #roundPages = 0;
  /** Payload bytes of writes that have not resolved. */
  #inFlight = 0;

  constructor(stream: FrameStream, windows: MemoryWindows, clock: Clock) {
    this.#stream = stream;
    this.#windows = windows;
    this.#clock = clock;
  }

  get wireBytes(): number {
    return this.#stream.bytesWritten + this.#inFlight;
  }

  async send(batch: PageBatch): Promise<void> {
    const { round, blockIndex: block } = batch;
    const start = this.#clock.now();
    const nonZero = this.#nonZero;
    const zero = this.#zero;
    nonZero.clear();
    zero.clear();
    for (let i = 0; i < batch.runs.length; i++) {
      splitZeroPages(this.#windows, block, batch.runs.firstPage(i), batch.runs.runPages(i), nonZero, zero);
    }
    const writes: Promise<void>[] = [];
    if (nonZero.length > 0) {
      const payload: Uint8Array[] = [];
      for (let i = 0; i < nonZero.length; i++) {
        payload.push(this.#windows.bytes(block, nonZero.firstPage(i), nonZero.runPages(i)));
      }
      this.totals.scanMs += this.#clock.now() - start;
      const bytes = nonZero.pageCount * this.#windows.pageSize;
      this.#inFlight += bytes;
      const landed = () => {
        this.#inFlight -= bytes;
      };
      const writing = this.#stream.write({ type: 'pages', round, block, runs: nonZero.toFlatArray() }, payload);
      writing.then(landed, landed);
      writes.push(writing);
    } else {
      this.totals.scanMs += this.#clock.now() - start;
    }
    if (zero.length > 0) writes.push(this.#stream.write({ type: 'zeroPages', round, block, runs: zero.toFlatArray() }));
    if (batch.holes.length > 0) {
      writes.push(this.#stream.write({ type: 'zeroPages', round, block, runs: batch.holes.toFlatArray() }));
    }
    this.#roundPages += batch.runs.pageCount + batch.holes.pageCount;
    this.totals.raw += nonZero.pageCount;
    this.totals.zero += zero.pageCount;
    this.totals.hole += batch.holes.pageCount;
    // All of them, even when one fails: until then the memory is borrowed.
    for (const result of await Promise.allSettled(writes)) if (result.status === 'rejected') throw result.reason;
  }

  async endRound(round: number): Promise<void> {
    const pages = this.#roundPages;
    this.#roundPages = 0;
    await this.#stream.write({ type: 'roundEnd', round, pages });
  }
}
