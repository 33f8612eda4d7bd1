import type { Clock } from '../clock.js';
import type { ChannelEncoder } from '../encoding/channel-encoder.js';
import type { EncodedBatch } from '../encoding/encoded-batch.js';
import type { FrameStream } from '../link/frame-stream.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import { PageRunList } from '../memory/page-run.js';
import { splitZeroPages } from '../memory/zero-page.js';
import type { DeviceFrame, Frame } from '../protocol/frame.js';
import { noPages, type PagesByKind } from '../round-record.js';

/** A batch of page runs of one block: the unit of work that is handed to a channel or a thread. The batch has no bytes of pages. */
export interface PageBatch {
  readonly round: number;
  readonly blockIndex: number;
  /** Pages to read, classify and send. No run crosses a memory window. */
  readonly runs: PageRunList;
  /** Pages known to have no memory behind them: sent as zero, never read. */
  readonly holes: PageRunList;
  /** Bytes per second that the bandwidth limit leaves each channel, by which encodings are chosen; 0 for no limit. */
  readonly limit: number;
  /** Each page is sent whole: the destination has no earlier version that a delta could be against. */
  readonly whole?: boolean | undefined;
}

/** The order to a channel that takes pages by itself. */
export interface TakenRound {
  readonly round: number;
  /** The pass of the queue (`PageQueue.open`). */
  readonly pass: number;
  /** As in `PageBatch`. */
  readonly whole?: boolean | undefined;
}

/** Totals of everything that a channel has sent; the difference of two snapshots belongs to a round. */
export interface PageChannelTotals extends PagesByKind {
  /** Bytes that deltas and compression have saved. */
  readonly savedBytes: number;
  /** Milliseconds spent on classifying pages and making deltas; encodings of whole pages, which run concurrently, do not count. */
  readonly scanMs: number;
  /** The processor time of the channel's own thread (`ProcessorTime`); 0 for a channel of the main thread. */
  readonly ranMs: number;
  readonly waitedMs: number;
}

/** The totals of a channel that has sent nothing; the caller may add to them. */
export function noTotals(): { -readonly [Name in keyof PageChannelTotals]: number } {
  return { ...noPages(), savedBytes: 0, scanMs: 0, ranMs: 0, waitedMs: 0 };
}

/**
 * The source's end of a page channel: reads guest memory, classifies pages, frames and writes them.
 *
 * Pages are written by reference. A page that changes while it is being written is dirty again, since its tracker was re-armed
 * before the batch was handed to the channel. With encodings, `ChannelEncoder` chooses the encoding of each page.
 */
export interface PageChannel {
  /** The most batches that the channel holds at once. Default: 4 (`BATCHES_PER_CHANNEL` of the round sender). */
  readonly depth?: number;
  /**
   * The most bytes of pages in one batch for this channel while nothing limits the bandwidth; the channel cuts the batch into frames
   * itself. Default: one frame's, 1 MiB (`BATCH_BYTES` of the round sender).
   */
  readonly batchBytes?: number;
  /** Whether the channel scans pages on a thread of its own, at the same time as others. Default false. */
  readonly ownThread?: boolean;
  readonly totals: Readonly<PageChannelTotals>;
  /**
   * Bytes that the channel's stream has written, framing included, and the payload bytes that it is writing now. The bandwidth limit
   * counts them, so that batches in flight are not forgotten.
   */
  readonly wireBytes: number;
  /**
   * Sends the pages of a batch. Settles when guest memory is no longer borrowed and the batch's runs may be reused, which is the
   * back-pressure. Rejects when the stream fails.
   */
  send(batch: PageBatch): Promise<void>;
  /**
   * Takes pages out of the migration's queue by itself, on a thread of its own, and sends them, until the queue is empty or closed;
   * none of this work waits for the event loop. Settles when guest memory is no longer borrowed. `onTaken` is called with the number
   * of pages that were taken: now and then for progress, and for the last pages before the promise resolves.
   */
  takePages?(round: TakenRound, onTaken: (pages: number) => void): Promise<void>;
  /**
   * Sends a piece of device state beside the pages. Its bytes are borrowed until the promise settles. A channel without this method
   * carries pages only.
   */
  sendDevice?(frame: DeviceFrame, bytes: Uint8Array): Promise<void>;
  /** Sends `roundEnd`: this channel carries no more pages of the round. */
  endRound(round: number): Promise<void>;
}

/** A page channel on this thread, over one frame stream. */
export class LocalPageChannel implements PageChannel {
  readonly totals = noTotals();
  readonly #stream: FrameStream;
  readonly #windows: MemoryWindows;
  readonly #clock: Clock;
  readonly #encoder: ChannelEncoder | undefined;
  readonly #nonZero: PageRunList;
  readonly #zero = new PageRunList(256);
  /** Batches that are being encoded: their frames are not written yet. */
  readonly #encoding = new Set<Promise<unknown>>();
  #roundPages = 0;
  /** Payload bytes of writes that have not resolved. */
  #inFlight = 0;

  constructor(stream: FrameStream, windows: MemoryWindows, clock: Clock, encoder?: ChannelEncoder) {
    this.#stream = stream;
    this.#windows = windows;
    this.#clock = clock;
    this.#encoder = encoder;
    this.#nonZero = new PageRunList(256, windows.pagesPerWindow);
  }

  get wireBytes(): number {
    return this.#stream.bytesWritten + this.#inFlight;
  }

  /** Bytes of a page. */
  get pageSize(): number {
    return this.#windows.pageSize;
  }

  async send(batch: PageBatch): Promise<void> {
    const { round, blockIndex: block, holes } = batch;
    const start = this.#clock.now();
    const nonZero = this.#nonZero;
    const zero = this.#zero;
    nonZero.clear();
    zero.clear();
    for (let i = 0; i < batch.runs.length; i++) {
      splitZeroPages(this.#windows, block, batch.runs.firstPage(i), batch.runs.runPages(i), nonZero, zero);
    }
    const encoded = this.#encoder?.encode(
      { round, block, limit: batch.limit, whole: batch.whole },
      nonZero,
      zero,
      holes,
    );
    const payload: Uint8Array[] = [];
    if (encoded === undefined) {
      for (let i = 0; i < nonZero.length; i++) {
        payload.push(this.#windows.bytes(block, nonZero.firstPage(i), nonZero.runPages(i)));
      }
    }
    this.totals.scanMs += this.#clock.now() - start;

    const writes: Promise<void>[] = [];
    if (encoded !== undefined) {
      this.#writeEncoded(encoded, writes);
    } else if (nonZero.length > 0) {
      const writing = this.#writePages({ type: 'pages', round, block, runs: nonZero.toFlatArray() }, payload);
      writes.push(this.#counted(writing, 'raw', nonZero.pageCount));
    }
    for (const [kind, list] of [['zero', zero] as const, ['hole', holes] as const]) {
      if (list.length === 0) continue;
      const writing = this.#stream.write({ type: 'zeroPages', round, block, runs: list.toFlatArray() });
      writes.push(this.#counted(writing, kind, list.pageCount));
    }
    this.#roundPages += batch.runs.pageCount + holes.pageCount;
    // All writes must settle, even when one fails: until then guest memory is borrowed.
    const results = await Promise.allSettled(writes);
    if (encoded !== undefined) this.#encoder?.release(encoded);
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }

  sendDevice(frame: DeviceFrame, bytes: Uint8Array): Promise<void> {
    return this.#writePages(frame, [bytes]);
  }

  async endRound(round: number): Promise<void> {
    const pages = this.#roundPages;
    this.#roundPages = 0;
    if (this.#encoding.size > 0) await Promise.allSettled(this.#encoding);
    await this.#stream.write({ type: 'roundEnd', round, pages });
  }

  #writeEncoded(encoded: EncodedBatch, writes: Promise<void>[]): void {
    const { round, block, delta, deltaBytes, whole } = encoded;
    if (delta.length > 0) {
      const payload = [encoded.deltas.subarray(0, deltaBytes)];
      const writing = this.#writePages({ type: 'deltaPages', round, block, runs: delta.toFlatArray() }, payload);
      const savedBytes = delta.pageCount * this.#windows.pageSize - deltaBytes;
      writes.push(this.#counted(writing, 'delta', delta.pageCount, savedBytes));
    }
    if (whole.length === 0) return;
    if (encoded.encoding === undefined) {
      writes.push(this.#writeWhole(encoded));
      return;
    }
    // This frame may be written after those of later batches: within a round the order of pages does not matter.
    const begun = (this.#encoder as ChannelEncoder).encodeWhole(encoded, ({ encoding, bytes }) => {
      if (bytes === undefined) return { writing: this.#writeWhole(encoded) };
      const runs = whole.toFlatArray();
      const writing = this.#writePages({ type: 'compressedPages', round, block, runs, encoding }, [bytes]);
      return { writing: this.#counted(writing, 'compressed', whole.pageCount, encoded.wholeBytes - bytes.length) };
    });
    this.#encoding.add(begun);
    const done = () => this.#encoding.delete(begun);
    begun.then(done, done);
    writes.push(begun.then(({ writing }) => writing));
  }

  #writeWhole(encoded: EncodedBatch): Promise<void> {
    const { round, block, whole, chunks } = encoded;
    const encoder = this.#encoder as ChannelEncoder;
    encoder.begun(encoded);
    const writing = this.#writePages({ type: 'pages', round, block, runs: whole.toFlatArray() }, chunks);
    const ended = () => encoder.ended(encoded);
    writing.then(ended, ended);
    return this.#counted(writing, 'raw', whole.pageCount);
  }

  /** Counts pages once they were written, as their bytes are counted: pages of an incomplete write were not sent. */
  #counted(writing: Promise<void>, kind: keyof PagesByKind, pages: number, savedBytes = 0): Promise<void> {
    return writing.then(() => {
      this.totals[kind] += pages;
      this.totals.savedBytes += savedBytes;
    });
  }

  #writePages(frame: Frame, payload: readonly Uint8Array[]): Promise<void> {
    let bytes = 0;
    for (const chunk of payload) bytes += chunk.length;
    this.#inFlight += bytes;
    const landed = () => {
      this.#inFlight -= bytes;
    };
    const writing = this.#stream.write(frame, payload);
    writing.then(landed, landed);
    return writing;
  }
}
