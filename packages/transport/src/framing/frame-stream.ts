import {
  type BlockingFrames,
  type Frame,
  type FrameStream,
  GodwitError,
  type PayloadTarget,
  type ReceivedFrame,
} from '@godwit/core/pages';
import type { BlockingCalls, ByteStream } from '../stream/byte-stream.js';
import { CheckedWriter } from './checked-writer.js';
import type { ChecksumState } from './checksum.js';
import { byteLength, concatenate, type Detachable, type DetachedStream } from './detach.js';
import { FRAME_HEADERS, hasPayload, packHeader } from './frame-codec.js';
import { checkedHead, frameHead } from './frame-head.js';
import { DEFAULT_FRAME_LIMITS, type FrameLimits } from './frame-limits.js';
import { FrameReader, type LastFrame } from './frame-reader.js';

/** Options of `frameStream`. */
export interface FrameStreamOptions extends Partial<FrameLimits> {
  /** How long `close` waits for the peer to end its direction before the stream is dropped, in milliseconds. Default: 5 000. */
  readonly lingerMs?: number;
  /**
   * Whether every frame is followed by its checksum, in both directions. Default: the same as the peer. With a `ChecksumState`
   * a stream that was begun elsewhere is continued.
   */
  readonly checksums?: boolean | ChecksumState;
}

/**
 * Frames over a byte stream, as `docs/wire-format.md` lays them out.
 *
 * `close` ends this side's direction and resolves when both directions have ended or the stream was dropped; it never rejects.
 * A loop that reads meanwhile goes on to the end of the peer's direction. When no `read` is pending any more, bytes that still
 * arrive are thrown away.
 *
 * @example
 * const frames = frameStream(await tcp({ port: 4444 }).connect());
 * await frames.write({ type: 'ping', id: 1 });
 * console.log((await frames.read())?.frame.type);
 */
export function frameStream(stream: ByteStream, options: FrameStreamOptions = {}): FrameStream {
  return new ByteFrameStream(stream, options);
}

class ByteFrameStream implements FrameStream, Detachable {
  readonly #stream: ByteStream;
  readonly #limits: FrameLimits;
  readonly #lingerMs: number;
  readonly #reader: FrameReader<Frame>;
  /** Whether this side requires checksums: of a peer that sends none only an `error` frame is accepted. */
  readonly #asked: boolean;
  #checked: CheckedWriter | undefined;
  /** True once a frame was written without a checksum. */
  #plain = false;
  #bytesWritten = 0;
  #closing: Promise<void> | undefined;
  #draining: Promise<null> | undefined;
  #noticeOver: (() => void) | undefined;
  #over = false;

  constructor(stream: ByteStream, options: FrameStreamOptions) {
    const { lingerMs = 5_000, checksums = false, ...limits } = options;
    const state = typeof checksums === 'object' ? checksums : undefined;
    this.#stream = stream;
    this.#lingerMs = lingerMs;
    this.#limits = { ...DEFAULT_FRAME_LIMITS, ...limits };
    this.#reader = new FrameReader(stream, this.#limits, FRAME_HEADERS, {
      takesChecksums: state?.begun !== true,
      sum: state?.in,
    });
    this.#asked = checksums === true || state?.out !== undefined;
    if (this.#asked) this.#checked = new CheckedWriter(stream, state?.out);
    const calls = stream.blocking;
    const reader = this.#reader;
    this.blocking = calls && {
      get buffered() {
        return reader.buffered;
      },
      read: () => this.#readNow(calls),
      readPayload: (into) => this.#payloadNow(calls, into),
      write: (frame, payload) => this.#writeNow(calls, frame, payload),
    };
  }

  readonly blocking: BlockingFrames | undefined;

  get checksums(): boolean {
    return this.#asked || this.#reader.sum !== undefined;
  }

  readonly takesFiles = true;

  get bytesWritten(): number {
    return this.#bytesWritten;
  }

  get bytesRead(): number {
    return this.#reader.bytesRead + (this.#stream.pendingBytes ?? 0);
  }

  async write(frame: Frame, payload?: readonly Uint8Array[]): Promise<void> {
    // Nothing is awaited before the bytes are handed over, so that overlapping calls keep their order.
    const header = this.#encode(frame, payload);
    const checked = this.#checkedWriter();
    const contents = hasPayload(frame) ? (payload ?? []) : undefined;
    let total: number;
    try {
      total = await (checked?.write(header, contents) ?? this.#writePlain(header, contents));
    } catch (error) {
      throw GodwitError.wrap(error, 'GODWIT_LINK_LOST', `writing to ${this.#stream.peer} failed`);
    }
    this.#bytesWritten += total;
  }

  #writeNow(calls: BlockingCalls, frame: Frame, payload: readonly Uint8Array[] | undefined): void {
    const header = this.#encode(frame, payload);
    const checked = this.#checkedWriter();
    const contents = hasPayload(frame) ? (payload ?? []) : undefined;
    if (checked !== undefined) {
      this.#bytesWritten += checked.writeNow(calls, header, contents);
      return;
    }
    const chunks = plainChunks(header, contents);
    try {
      calls.write(chunks);
    } catch (error) {
      throw GodwitError.wrap(error, 'GODWIT_LINK_LOST', `writing to ${this.#stream.peer} failed`);
    }
    this.#bytesWritten += byteLength(chunks);
  }

  /** The writer for the next frame, if that has a checksum. */
  #checkedWriter(): CheckedWriter | undefined {
    // A side that has written a frame without a checksum goes on without: it refuses a peer before that peer has sent anything.
    if (this.#reader.sum !== undefined && !this.#plain) this.#checked ??= new CheckedWriter(this.#stream, undefined);
    this.#plain = this.#checked === undefined;
    return this.#checked;
  }

  async read(): Promise<ReceivedFrame | null> {
    if (this.#draining !== undefined) return this.#draining;
    try {
      return this.#accepted(await this.#reader.read());
    } catch (error) {
      if (GodwitError.is(error) && error.code === 'GODWIT_LINK_LOST') this.#letGo();
      throw error;
    } finally {
      this.#drainNextTurn();
    }
  }

  #readNow(calls: BlockingCalls): ReceivedFrame | null {
    if (this.#draining !== undefined) return null;
    try {
      return this.#accepted(this.#reader.readNow(calls));
    } catch (error) {
      if (GodwitError.is(error) && error.code === 'GODWIT_LINK_LOST') this.#letGo();
      throw error;
    } finally {
      this.#drainNextTurn();
    }
  }

  #accepted(received: ReceivedFrame | null): ReceivedFrame | null {
    if (received === null) this.#letGo();
    else if (this.#asked && this.#reader.sum === undefined && received.frame.type !== 'error') {
      throw new GodwitError(
        'GODWIT_UNSUPPORTED',
        `checksums were asked for, but what ${this.#stream.peer} sends has none; is it an older version?`,
      );
    }
    return received;
  }

  readPayload(into: readonly PayloadTarget[]): Promise<void> {
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
    this.#checked?.abort(reason);
    this.#stream.abort(reason);
  }

  detach(duplicate: (fd: number) => number, peeked = false): DetachedStream | undefined {
    const reader = this.#reader;
    // A frame that was read and not handed out yet is put back.
    const last = peeked ? reader.last : undefined;
    if (!peeked && !reader.idle) {
      throw new GodwitError('GODWIT_INVALID_STATE', `a read from ${this.#stream.peer} is pending`);
    }
    const carrier = this.#stream.detach?.(duplicate);
    if (carrier === undefined) return undefined;
    const read = concatenate([...(last === undefined ? [] : putBack(last)), reader.unread]);
    this.#letGo();
    return {
      checksums: { out: this.#checked?.sum, in: last === undefined ? reader.sum : last.sum, begun: reader.begun },
      fd: carrier.fd,
      unread: concatenate([read, carrier.unread]),
      bytesWritten: this.#bytesWritten,
      bytesRead: reader.bytesRead - read.length,
    };
  }

  async #close(): Promise<void> {
    if (this.#checked !== undefined) await this.#checked.end();
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

  #payloadNow(calls: BlockingCalls, into: readonly Uint8Array[]): void {
    this.#checkOpen();
    try {
      this.#reader.readPayloadNow(calls, into);
    } finally {
      this.#drainNextTurn();
    }
  }

  /** Fails when the payload of the last frame was thrown away. */
  #checkOpen(): void {
    if (this.#draining === undefined) return;
    throw new GodwitError(
      'GODWIT_INVALID_STATE',
      `the stream from ${this.#stream.peer} is closed; its payload is gone`,
    );
  }

  async #payload(read: () => Promise<void>): Promise<void> {
    this.#checkOpen();
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

  /** Once no read is pending, throws away everything up to the end of the peer's direction. */
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

  /** Packs the header of a frame, which must keep to this side's limits. */
  #encode(frame: Frame, payload: readonly Uint8Array[] | undefined): Uint8Array {
    const header = packHeader(frame);
    if (header.length > this.#limits.maximumHeaderBytes) {
      throw new GodwitError(
        'GODWIT_LIMIT_EXCEEDED',
        `the header of a ${frame.type} frame would have ${header.length} bytes, more than maximumHeaderBytes = ${this.#limits.maximumHeaderBytes}`,
      );
    }
    if (payload === undefined) return header;
    if (!hasPayload(frame)) throw new GodwitError('GODWIT_INVALID_ARGUMENT', `a ${frame.type} frame has no payload`);
    const total = byteLength(payload);
    if (total > this.#limits.maximumPayloadBytes) {
      throw new GodwitError(
        'GODWIT_LIMIT_EXCEEDED',
        `the payload of a ${frame.type} frame would have ${total} bytes, more than maximumPayloadBytes = ${this.#limits.maximumPayloadBytes}`,
      );
    }
    return header;
  }

  /** Writes a frame by reference, without checksums. */
  async #writePlain(header: Uint8Array, payload: readonly Uint8Array[] | undefined): Promise<number> {
    const chunks = plainChunks(header, payload);
    await this.#stream.write(chunks);
    return byteLength(chunks);
  }
}

/** The bytes of a frame without checksums. */
function plainChunks(header: Uint8Array, payload: readonly Uint8Array[] | undefined): Uint8Array[] {
  const head = frameHead(header, payload === undefined ? undefined : byteLength(payload));
  return payload === undefined ? [head] : [head, ...payload];
}

/** The bytes of a frame up to the contents of its payload, as they were read. */
function putBack({ frame, payloadBytes, sum }: LastFrame<Frame>): readonly Uint8Array[] {
  const header = packHeader(frame);
  const length = hasPayload(frame) ? payloadBytes : undefined;
  return sum === undefined ? [frameHead(header, length)] : [checkedHead(header, length, sum).bytes];
}
