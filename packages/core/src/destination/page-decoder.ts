import { applyDelta, checkDeltas } from '../encoding/delta-format.js';
import type { PageEncoding, WholePageEncoding } from '../encoding/page-encoding.js';
import type { PageStreamDecoder, StreamEncoding } from '../encoding/stream-encoding.js';
import { GodwitError } from '../errors.js';
import type { FrameStream } from '../link/frame-stream.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import type { CompressedPagesFrame, DeltaPagesFrame } from '../protocol/frame.js';
import { MAXIMUM_PAYLOAD } from '../protocol/negotiate.js';

/**
 * Decodes pages into guest memory, for one channel. A payload is read into a buffer and checked to its last byte before any of it is
 * written to guest memory, so that a bad payload writes nothing.
 */
export class PageDecoder {
  readonly #windows: MemoryWindows;
  readonly #delta: boolean;
  readonly #encodings: ReadonlyMap<string, WholePageEncoding>;
  /** The channel's decoder for each stream encoding, made when the first payload in that encoding comes. */
  readonly #streams = new Map<string, PageStreamDecoder>();
  #buffer: Uint8Array<ArrayBuffer> = new Uint8Array(0);

  /** `agreed`: the encodings that both sides use; pages in any other are refused. */
  constructor(windows: MemoryWindows, agreed: readonly PageEncoding[]) {
    this.#windows = windows;
    this.#delta = agreed.some((one) => one.kind === 'delta');
    this.#encodings = new Map(agreed.flatMap((one) => (one.kind === 'delta' ? [] : [[one.name, one] as const])));
  }

  /** Applies the deltas of `pages` pages to the contents that guest memory has. */
  async deltas(stream: FrameStream, frame: DeltaPagesFrame, payloadBytes: number, pages: number): Promise<void> {
    if (!this.#delta) throw notAgreed(frame.type, 'delta');
    // Every page takes at least one byte, so that the work of a frame is bounded by its payload.
    if (payloadBytes < pages) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `a "deltaPages" frame has ${pages} pages but a payload of ${payloadBytes} bytes; each page takes at least one`,
      );
    }
    const payload = await this.#read(stream, payloadBytes);
    checkDeltas(payload, pages, this.#windows.pageSize);
    const { pageSize, pagesPerWindow } = this.#windows;
    let at = 0;
    for (let i = 0; i < frame.runs.length; i += 2) {
      let page = frame.runs[i] as number;
      const end = page + (frame.runs[i + 1] as number);
      while (page < end) {
        const count = Math.min(end - page, pagesPerWindow - (page % pagesPerWindow));
        const memory = this.#windows.bytes(frame.block, page, count);
        for (let offset = 0; offset < memory.length; offset += pageSize) at = applyDelta(payload, at, memory, offset);
        page += count;
      }
    }
  }

  /** Puts `pages` pages, compressed or in a stream encoding, into guest memory. */
  async compressed(
    stream: FrameStream,
    frame: CompressedPagesFrame,
    payloadBytes: number,
    pages: number,
  ): Promise<void> {
    const contents = await this.contents(stream, frame, payloadBytes, pages);
    const into: Uint8Array[] = [];
    for (let i = 0; i < frame.runs.length; i += 2) {
      this.#windows.appendViews(into, frame.block, frame.runs[i] as number, frame.runs[i + 1] as number);
    }
    let at = 0;
    for (const view of into) {
      view.set(contents.subarray(at, at + view.length));
      at += view.length;
    }
  }

  /** The contents of `pages` compressed pages, one after the other. */
  async contents(
    stream: FrameStream,
    frame: CompressedPagesFrame,
    payloadBytes: number,
    pages: number,
  ): Promise<Uint8Array> {
    const encoding = this.#encodings.get(frame.encoding);
    if (encoding === undefined) throw notAgreed(frame.type, frame.encoding);
    const { pageSize } = this.#windows;
    const byteLength = pages * pageSize;
    if (byteLength > MAXIMUM_PAYLOAD) {
      throw new GodwitError(
        'GODWIT_LIMIT_EXCEEDED',
        `a "compressedPages" frame stands for ${byteLength} bytes; at most ${MAXIMUM_PAYLOAD} were agreed on`,
      );
    }
    const payload = await this.#read(stream, payloadBytes);
    return this.#decode(encoding, payload, byteLength, frame);
  }

  async #decode(
    encoding: WholePageEncoding,
    payload: Uint8Array,
    byteLength: number,
    { block, runs }: CompressedPagesFrame,
  ): Promise<Uint8Array> {
    let contents: Uint8Array;
    try {
      contents =
        encoding.kind === 'compression'
          ? await encoding.decompress(payload, byteLength)
          : await this.#streamOf(encoding).decode(payload, { pageSize: this.#windows.pageSize, block, runs });
    } catch (error) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `the payload of a "compressedPages" frame is no ${encoding.name} of ${byteLength} bytes: ${String(error)}`,
        { cause: error },
      );
    }
    if (contents.length === byteLength) return contents;
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      `the payload of a "compressedPages" frame holds ${contents.length} bytes; its pages have ${byteLength}`,
    );
  }

  #streamOf(encoding: StreamEncoding): PageStreamDecoder {
    const known = this.#streams.get(encoding.name);
    if (known !== undefined) return known;
    const stream = encoding.decoder();
    this.#streams.set(encoding.name, stream);
    return stream;
  }

  async #read(stream: FrameStream, payloadBytes: number): Promise<Uint8Array> {
    if (this.#buffer.length < payloadBytes) this.#buffer = new Uint8Array(payloadBytes);
    const payload = this.#buffer.subarray(0, payloadBytes);
    await stream.readPayload([payload]);
    return payload;
  }
}

function notAgreed(frame: string, encoding: string): GodwitError {
  return new GodwitError(
    'GODWIT_PROTOCOL',
    `a "${frame}" frame came, but the encoding "${encoding}" was not agreed on`,
  );
}
