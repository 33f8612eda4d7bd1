import { type Frame, type FrameStream, GodwitError, type ReceivedFrame } from '@godwit/core';
import type { ByteStream } from '../stream/byte-stream.js';
import { concatenate, type Detachable, type DetachedStream } from './detach.js';
import { FRAME_HEADERS, hasPayload, packHeader } from './frame-codec.js';
import { frameHead } from './frame-head.js';
import { DEFAULT_FRAME_LIMITS, type FrameLimits } from './frame-limits.js';
import { FrameReader } from './frame-reader.js';

export interface FrameStreamOptions extends Partial<FrameLimits> {
  /** How long `close` waits for the peer to end its direction before the stream is dropped, in milliseconds. Default: 5 000. */
  readonly lingerMs?: number;
}

/**
 * Frames over a byte stream, as `docs/wire-format.md` lays them out.
 *
 * `close` ends our direction and resolves when the stream has been let go; it never rejects. A loop that reads then goes
 * on to the end of the peer's direction. When no `read` is pending any more, what still arrives is thrown away.
 */
export function frameStream(stream: ByteStream, options: FrameStreamOptions = {}): FrameStream {
  return new ByteFrameStream(stream, options);
}

class ByteFrameStream implements FrameStream, Detachable {
  readonly #stream: ByteStream;
  readonly #limits: FrameLimits;
  readonly #lingerMs: number;
  readonly #reader: FrameReader<Frame>;
  #bytesWritten = 0;
  #closing: Promise<void> | undefined;
  #draining: Promise<null> | undefined;
  #noticeOver: (() => void) | undefined;
  #over = false;

  constructor(stream: ByteStream, options: FrameStreamOptions) {
    const { lingerMs = 5_000, ...limits } = options;
    this.#stream = stream;
    this.#lingerMs = lingerMs;
    this.#limits = { ...DEFAULT_FRAME_LIMITS, ...limits };
    this.#reader = new FrameReader(stream, this.#limits, FRAME_HEADERS);
  }

  get bytesWritten(): number {
    return this.#bytesWritten;
  }

  get bytesRead(): number {
    return this.#reader.bytesRead + (this.#stream.pendingBytes ?? 0);
  }

  async write(frame: Frame, payload?: readonly Uint8Array[]): Promise<void> {
    // No await before the bytes are handed over: overlapping calls keep their order.
    const chunks = this.#encode(frame, payload);
    let total = 0;
    for (const chunk of chunks) total += chunk.length;
    try {
      await this.#stream.write(chunks);
    } catch (error) {
      throw GodwitError.wrap(error, 'GODWIT_LINK_LOST', `writing to ${this.#stream.peer} failed`);
    }
    this.#bytesWritten += total;
  }

  async read(): Promise<ReceivedFrame | null> {
    if (this.#draining !== undefined) return this.#draining;
    try {
      const received = await this.#reader.read();
      if (received === null) this.#letGo();
      return received;
    } catch (error) {
      if (GodwitError.is(error) && error.code === 'GODWIT_LINK_LOST') this.#letGo();
      throw error;
    } finally {
      this.#drainNextTurn();
    }
  }

  readPayload(into: readonly Uint8Array[]): Promise<void> {
    return this.#payload(() => this.#reader.readPayload(into));
  }

  skipPayload(): Promise<void> {
    return this.#payload(() => this.#reader.skipPayload());
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  abort(reason: GodwitError): void {
    this.#letGo();
    this.#stream.abort(reason);
  }

  detach(duplicate: (fd: number) => number, peeked = false): DetachedStream | undefined {
    const reader = this.#reader;
    // One that was read and that nobody has seen yet is put back.
    const last = peeked ? reader.last : undefined;
    if (!peeked && !reader.idle) {
      throw new GodwitError('GODWIT_INVALID_STATE', `a read from ${this.#stream.peer} is pending`);
    }
    const carrier = this.#stream.detach?.(duplicate);
    if (carrier === undefined) return undefined;
    const head =
      last === undefined
        ? new Uint8Array()
        : frameHead(packHeader(last.frame), hasPayload(last.frame) ? last.payloadBytes : undefined);
    const read = concatenate([head, reader.unread]);
    this.#letGo();
    return {
      fd: carrier.fd,
      unread: concatenate([read, carrier.unread]),
      bytesWritten: this.#bytesWritten,
      bytesRead: reader.bytesRead - read.length,
    };
  }

  async #close(): Promise<void> {
    await this.#stream.close();
    if (this.#over) return;
    const over = new Promise<void>((resolve) => {
      this.#noticeOver = resolve;
    });
    const timer = setTimeout(() => {
      const message = `${this.#stream.peer} did not end its direction within lingerMs = ${this.#lingerMs}`;
      this.abort(new GodwitError('GODWIT_TIMEOUT', message));
    }, this.#lingerMs);
    this.#drainWhenIdle();
    await over;
    clearTimeout(timer);
  }

  async #payload(read: () => Promise<void>): Promise<void> {
    if (this.#draining !== undefined) {
      throw new GodwitError(
        'GODWIT_INVALID_STATE',
        `the stream from ${this.#stream.peer} is closed; its payload is gone`,
      );
    }
    try {
      await read();
    } finally {
      this.#drainNextTurn();
    }
  }

  /** After `close`, a reader that does not ask again in this turn of the event loop has stopped. */
  #drainNextTurn(): void {
    if (this.#noticeOver !== undefined) setImmediate(() => this.#drainWhenIdle());
  }

  /** Once nobody reads any more, only the end of the peer's direction is of interest. */
  #drainWhenIdle(): void {
    if (this.#over || this.#draining !== undefined || !this.#reader.idle) return;
    const done = (): null => {
      this.#letGo();
      return null;
    };
    this.#draining = this.#reader.drain().then(done, done);
  }

  #letGo(): void {
    this.#over = true;
    this.#noticeOver?.();
  }

  #encode(frame: Frame, payload: readonly Uint8Array[] | undefined): Uint8Array[] {
    const header = packHeader(frame);
    if (header.length > this.#limits.maximumHeaderBytes) {
      throw new GodwitError(
        'GODWIT_LIMIT_EXCEEDED',
        `the header of a ${frame.type} frame would have ${header.length} bytes, more than maximumHeaderBytes = ${this.#limits.maximumHeaderBytes}`,
      );
    }
    if (!hasPayload(frame)) {
      if (payload !== undefined)
        throw new GodwitError('GODWIT_INVALID_ARGUMENT', `a ${frame.type} frame has no payload`);
      return [frameHead(header, undefined)];
    }
    let total = 0;
    if (payload !== undefined) for (const chunk of payload) total += chunk.length;
    if (total > this.#limits.maximumPayloadBytes) {
      throw new GodwitError(
        'GODWIT_LIMIT_EXCEEDED',
        `the payload of a ${frame.type} frame would have ${total} bytes, more than maximumPayloadBytes = ${this.#limits.maximumPayloadBytes}`,
      );
    }
    const head = frameHead(header, total);
    return payload === undefined ? [head] : [head, ...payload];
  }
}
