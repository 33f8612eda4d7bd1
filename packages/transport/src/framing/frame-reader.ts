import { writeSync } from 'node:fs';
import { GodwitError } from '@godwit/core/errors';
import type { FileTarget, PayloadTarget } from '@godwit/core/pages';
import type { BlockingCalls, ByteStream } from '../stream/byte-stream.js';
import { CHECKSUM_BYTES, crc32, damaged, INT32, wrongChecksum } from './checksum.js';
import { foreignBytes } from './foreign-bytes.js';
import type { FrameLimits } from './frame-limits.js';
import { ReadBuffer } from './read-buffer.js';

/** Bytes are read directly into a chunk with at least this much left to fill; smaller chunks share reads through the buffer. */
const DIRECT_BYTES = 64 * 1024;

const UINT32 = 0xce;
const BIN32 = 0xc6;
const PREFIX = 5;

/** The kind of frames that a reader takes. */
export interface HeaderKind<F> {
  /** Returns the frame of a header, or throws a `GodwitError`. */
  parse(header: Uint8Array, limits: FrameLimits): F;
  hasPayload(frame: F): boolean;
}

export interface FrameReaderOptions {
  /** Whether the peer may choose to send checksums, by the mark at its start. Default: false. */
  readonly takesChecksums?: boolean;
  /** The checksum so far of a continued direction that had begun with the mark. */
  readonly sum?: number | undefined;
}

/** A frame that has come, and the size of its payload. */
export interface ReceivedHead<F> {
  readonly frame: F;
  readonly payloadBytes: number;
}

/** A frame that was read, and the checksum before it. */
export interface LastFrame<F> extends ReceivedHead<F> {
  readonly sum: number | undefined;
}

type Readable = Pick<ByteStream, 'peer' | 'read' | 'readIntoFile'>;

/**
 * Reads frames from a byte stream, payloads directly into their target memory. Where the peer sends checksums, a frame is handed out once
 * the checksum of its header was verified, and `readPayload` resolves once that of the payload was.
 *
 * `readNow` and `readPayloadNow` do the same without promises, over a stream whose calls block.
 */
export class FrameReader<F extends { readonly type: string }> {
  readonly #stream: Readable;
  readonly #limits: FrameLimits;
  readonly #kind: HeaderKind<F>;
  readonly #buffer = new ReadBuffer();
  #payloadLeft = 0;
  #busy = false;
  #broken: GodwitError | undefined;
  #ended = false;
  /** Whether the mark may still come. */
  #fresh: boolean;
  /** The checksum of what was read so far, where the peer sends checksums. */
  #sum: number | undefined;
  bytesRead = 0;
  /** The last frame that was read; `undefined` while a `read` is pending. */
  last: LastFrame<F> | undefined;

  constructor(
    stream: Readable,
    limits: FrameLimits,
    kind: HeaderKind<F>,
    { takesChecksums = false, sum }: FrameReaderOptions = {},
  ) {
    this.#stream = stream;
    this.#limits = limits;
    this.#kind = kind;
    this.#fresh = takesChecksums && sum === undefined;
    this.#sum = sum;
  }

  /** Whether the peer's first byte has come, which shows whether it sends checksums. */
  get begun(): boolean {
    return !this.#fresh;
  }

  /** The checksum of what was read so far; `undefined` where the peer sends no checksums, or has sent nothing yet. */
  get sum(): number | undefined {
    return this.#sum;
  }

  /** Bytes of the stream that were read as frames and payloads; between two frames this is the start of the next one. */
  get position(): number {
    return this.bytesRead - this.#buffer.length;
  }

  /** The number of bytes that have arrived and were not handed out. */
  get buffered(): number {
    return this.#buffer.length;
  }

  /** Bytes that have arrived and were not handed out, between two frames or in an incomplete one. */
  get unread(): Uint8Array {
    return this.#buffer.peek(this.#buffer.length).slice();
  }

  /** Whether no read is pending. */
  get idle(): boolean {
    return !this.#busy;
  }

  async read(): Promise<ReceivedHead<F> | null> {
    this.#begin();
    try {
      this.last = undefined;
      for (let missing = this.#parse(); missing > 0; missing = this.#parse()) await this.#more(missing);
      return this.#parsed();
    } catch (error) {
      throw this.#failed(error);
    } finally {
      this.#busy = false;
    }
  }

  readNow(calls: BlockingCalls): ReceivedHead<F> | null {
    this.#begin();
    try {
      this.last = undefined;
      for (let missing = this.#parse(); missing > 0; missing = this.#parse()) this.#moreNow(calls, missing);
      return this.#parsed();
    } catch (error) {
      throw this.#failed(error);
    } finally {
      this.#busy = false;
    }
  }

  async readPayload(into: readonly PayloadTarget[]): Promise<void> {
    this.#begin();
    try {
      const total = this.#checkTotal(into);
      for (const chunk of into) {
        if (!(chunk instanceof Uint8Array)) {
          await this.#fillFile(chunk);
          continue;
        }
        // Nothing is awaited while the bytes are in the buffer: most runs are short, and a promise takes longer than their copy.
        const taken = this.#takeBuffered(chunk);
        if (taken < chunk.length) await this.#fill(chunk, taken);
      }
      if (total > 0) await this.#verifyPayload();
    } catch (error) {
      throw this.#failed(error);
    } finally {
      this.#busy = false;
    }
  }

  readPayloadNow(calls: BlockingCalls, into: readonly Uint8Array[]): void {
    this.#begin();
    try {
      const total = this.#checkTotal(into);
      for (const chunk of into) {
        const taken = this.#takeBuffered(chunk);
        if (taken < chunk.length) this.#fillNow(calls, chunk, taken);
      }
      if (total === 0 || this.#sum === undefined) return;
      while (this.#buffer.length < CHECKSUM_BYTES) this.#moreNow(calls, CHECKSUM_BYTES - this.#buffer.length, true);
      this.#checkPayload(this.#sum);
    } catch (error) {
      throw this.#failed(error);
    } finally {
      this.#busy = false;
    }
  }

  async skipPayload(): Promise<void> {
    this.#begin();
    try {
      if (this.#payloadLeft === 0) return;
      const buffer = this.#buffer;
      while (this.#payloadLeft > 0) {
        if (buffer.length === 0) await this.#refill(1);
        const bytes = buffer.peek(this.#payloadLeft);
        this.#count(bytes);
        buffer.from += bytes.length;
      }
      await this.#verifyPayload();
    } catch (error) {
      throw this.#failed(error);
    } finally {
      this.#busy = false;
    }
  }

  /** Throws away everything until the peer ends its direction. */
  async drain(): Promise<void> {
    while ((await this.#stream.read(this.#buffer.bytes)) > 0);
  }

  #begin(): void {
    if (this.#busy) throw new GodwitError('GODWIT_INVALID_STATE', 'a read of this frame stream is pending already');
    if (this.#broken !== undefined) throw this.#broken;
    this.#busy = true;
  }

  /** A stream that has failed once stays failed, since the start of the next frame is not known any more. */
  #failed(error: unknown): GodwitError {
    const failure = GodwitError.wrap(error, 'GODWIT_LINK_LOST', `reading from ${this.#stream.peer} failed`);
    if (failure.code !== 'GODWIT_INVALID_ARGUMENT' && failure.code !== 'GODWIT_INVALID_STATE') this.#broken = failure;
    return failure;
  }

  /** The frame that `#parse` has found, or `null` at the end of the stream. */
  #parsed(): ReceivedHead<F> | null {
    const last = this.last as LastFrame<F> | undefined;
    return last === undefined ? null : { frame: last.frame, payloadBytes: last.payloadBytes };
  }

  /**
   * Takes the head of the next frame off the buffer and puts it into `last`, if all of it is there. Returns 0 then, and at the end of the
   * stream; otherwise the number of bytes that are known to be missing.
   */
  #parse(): number {
    if (this.#payloadLeft > 0) {
      throw new GodwitError(
        'GODWIT_INVALID_STATE',
        `${this.#payloadLeft} bytes of payload must be read or skipped first`,
      );
    }
    const missing = this.#parseMark();
    if (missing > 0 || this.#ended) return missing;
    const buffer = this.#buffer;
    if (buffer.length === 0) return 1;
    // The first byte is checked as soon as it is there, since a peer may never send five bytes.
    if (buffer.bytes[buffer.from] !== UINT32) {
      if (this.#sum === undefined) throw foreignBytes(buffer.peek(buffer.length));
      throw damaged(this.#stream.peer, `a frame starts with ce, not with ${this.#hexByte(0)}`);
    }
    if (buffer.length < PREFIX) return PREFIX - buffer.length;
    return this.#sum === undefined ? this.#parsePlain() : this.#parseChecked(this.#sum);
  }

  /** Takes the mark off the buffer, if the peer begins with it. Returns the number of missing bytes. */
  #parseMark(): number {
    const buffer = this.#buffer;
    if (!this.#fresh || this.#ended) return 0;
    if (buffer.length === 0) return 1;
    if (buffer.bytes[buffer.from] === INT32) {
      if (buffer.length < CHECKSUM_BYTES) return CHECKSUM_BYTES - buffer.length;
      if (buffer.uint32(1) !== 0) throw foreignBytes(buffer.peek(buffer.length));
      buffer.from += CHECKSUM_BYTES;
      this.#sum = 0;
    }
    this.#fresh = false;
    return 0;
  }

  #parsePlain(): number {
    const buffer = this.#buffer;
    const head = PREFIX + this.#headerBytes();
    if (buffer.length < head) return head - buffer.length;
    const frame = this.#kind.parse(buffer.bytes.subarray(buffer.from + PREFIX, buffer.from + head), this.#limits);
    if (!this.#kind.hasPayload(frame)) return this.#finish(frame, head, 0, undefined);
    // The head is taken off the buffer only as a whole: until then its bytes are `unread`.
    if (buffer.length < head + PREFIX) return head + PREFIX - buffer.length;
    return this.#finish(frame, head + PREFIX, this.#payloadBytes(frame, head), undefined);
  }

  #headerBytes(): number {
    const headerBytes = this.#buffer.uint32(1);
    if (headerBytes <= this.#limits.maximumHeaderBytes) return headerBytes;
    throw tooLarge('a frame header', headerBytes, this.#limits.maximumHeaderBytes, 'maximumHeaderBytes');
  }

  /**
   * Reads the head of a frame with checksums, after bytes with the checksum `before`. No length is used before its checksum was verified.
   * The header's checksum covers the length of a payload after it too, if the header's type has one.
   */
  #parseChecked(before: number): number {
    const { peer } = this.#stream;
    const buffer = this.#buffer;
    const start = PREFIX + CHECKSUM_BYTES;
    if (buffer.length < start) return start - buffer.length;
    const prefix = crc32(buffer.peek(PREFIX), before);
    const saidOfLength = this.#checksum(PREFIX);
    if (saidOfLength !== prefix) throw wrongChecksum(peer, 'the length of a frame header', saidOfLength, prefix);
    const head = start + this.#headerBytes();
    if (buffer.length < head + CHECKSUM_BYTES) return head + CHECKSUM_BYTES - buffer.length;
    const said = this.#checksum(head);
    const header = buffer.bytes.subarray(buffer.from + start, buffer.from + head);
    const sum = crc32(header, prefix);
    let frame: F;
    try {
      frame = this.#kind.parse(header, this.#limits);
    } catch (error) {
      // A malformed header with a right checksum was sent so, and its own error is thrown.
      throw said === sum ? error : wrongChecksum(peer, 'a frame header', said, sum);
    }
    const contents = head + CHECKSUM_BYTES;
    if (!this.#kind.hasPayload(frame)) {
      if (said !== sum) throw wrongChecksum(peer, `a "${frame.type}" frame`, said, sum);
      return this.#finish(frame, contents, 0, sum);
    }
    if (buffer.length < contents + PREFIX) return contents + PREFIX - buffer.length;
    const at = buffer.from + contents;
    const whole = crc32(buffer.bytes.subarray(at, at + PREFIX), sum);
    if (said !== whole) throw wrongChecksum(peer, `the head of a "${frame.type}" frame`, said, whole);
    return this.#finish(frame, contents + PREFIX, this.#payloadBytes(frame, contents), whole);
  }

  /** Takes the head of a frame, which has `bytes` bytes, off the buffer. */
  #finish(frame: F, bytes: number, payloadBytes: number, sum: number | undefined): 0 {
    this.last = { frame, payloadBytes, sum: this.#sum };
    this.#buffer.from += bytes;
    this.#payloadLeft = payloadBytes;
    this.#sum = sum;
    return 0;
  }

  /** The length of a payload, whose start is at `at`. */
  #payloadBytes(frame: F, at: number): number {
    const buffer = this.#buffer;
    const start = buffer.bytes[buffer.from + at] as number;
    if (start !== BIN32) {
      throw new GodwitError(
        'GODWIT_BAD_STREAM',
        `a ${frame.type} frame needs a payload, which starts with c6, got ${start.toString(16)}`,
      );
    }
    const bytes = buffer.uint32(at + 1);
    const { maximumPayloadBytes } = this.#limits;
    if (bytes <= maximumPayloadBytes) return bytes;
    throw tooLarge(`the payload of a ${frame.type} frame`, bytes, maximumPayloadBytes, 'maximumPayloadBytes');
  }

  #checkTotal(into: readonly PayloadTarget[]): number {
    let total = 0;
    for (const chunk of into) total += chunk.length;
    if (total === this.#payloadLeft) return total;
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `the payload has ${this.#payloadLeft} bytes, the chunks ${total}`);
  }

  async #fill(chunk: Uint8Array, start: number): Promise<void> {
    let at = start;
    while (at < chunk.length) {
      const missing = chunk.length - at;
      const rest = at === 0 ? chunk : chunk.subarray(at);
      if (missing >= DIRECT_BYTES) {
        at += this.#came(chunk, at, await this.#stream.read(rest, missing));
      } else {
        await this.#refill(missing);
        at += this.#takeBuffered(rest);
      }
    }
  }

  #fillNow(calls: BlockingCalls, chunk: Uint8Array, start: number): void {
    let at = start;
    while (at < chunk.length) {
      const missing = chunk.length - at;
      const rest = at === 0 ? chunk : chunk.subarray(at);
      if (missing >= DIRECT_BYTES) {
        at += this.#came(chunk, at, calls.read(rest, missing));
      } else {
        this.#refillNow(calls, missing);
        at += this.#takeBuffered(rest);
      }
    }
  }

  /** Counts bytes that were read directly into a chunk, from `at` on. */
  #came(chunk: Uint8Array, at: number, count: number): number {
    if (count === 0) throw this.#lost();
    this.bytesRead += count;
    this.#count(chunk.subarray(at, at + count));
    return count;
  }

  /**
   * Puts bytes of the payload into a file: first the bytes that have come already, and then, if many are left and there are no checksums,
   * the rest without passing through this process's memory.
   */
  async #fillFile({ fd, position, length }: FileTarget): Promise<void> {
    const stream = this.#stream;
    const buffer = this.#buffer;
    let done = 0;
    while (done < length) {
      const missing = length - done;
      const past = buffer.length === 0 && this.#sum === undefined && missing >= DIRECT_BYTES;
      if (past && stream.readIntoFile !== undefined) {
        const count = await stream.readIntoFile(fd, position + done, missing);
        if (count === 0) throw this.#lost();
        this.bytesRead += count;
        this.#payloadLeft -= count;
        done += count;
        continue;
      }
      if (buffer.length === 0) await this.#refill(missing);
      const bytes = buffer.peek(missing);
      for (let at = 0; at < bytes.length; ) {
        at += writeSync(fd, bytes, at, bytes.length - at, position + done + at);
      }
      this.#count(bytes);
      buffer.from += bytes.length;
      done += bytes.length;
    }
  }

  #takeBuffered(into: Uint8Array): number {
    const buffer = this.#buffer;
    if (buffer.length === 0 || into.length === 0) return 0;
    const bytes = buffer.peek(into.length);
    into.set(bytes);
    this.#count(bytes);
    buffer.from += bytes.length;
    return bytes.length;
  }

  /** Counts bytes of payload that have come. */
  #count(bytes: Uint8Array): void {
    this.#payloadLeft -= bytes.length;
    if (this.#sum !== undefined) this.#sum = crc32(bytes, this.#sum);
  }

  async #verifyPayload(): Promise<void> {
    if (this.#sum === undefined) return;
    while (this.#buffer.length < CHECKSUM_BYTES) await this.#more(CHECKSUM_BYTES - this.#buffer.length, true);
    this.#checkPayload(this.#sum);
  }

  #checkPayload(sum: number): void {
    const said = this.#checksum(0);
    if (said !== sum) throw wrongChecksum(this.#stream.peer, 'a payload', said, sum);
    this.#buffer.from += CHECKSUM_BYTES;
  }

  /** The checksum at `at`, counted from the first byte of the buffer. */
  #checksum(at: number): number {
    const buffer = this.#buffer;
    if (buffer.bytes[buffer.from + at] === INT32) return buffer.uint32(at + 1);
    throw damaged(this.#stream.peer, `a checksum starts with d2, not with ${this.#hexByte(at)}`);
  }

  #hexByte(at: number): string {
    return (this.#buffer.bytes[this.#buffer.from + at] as number).toString(16).padStart(2, '0');
  }

  /** Fills the empty buffer with at least one byte of payload, and possibly bytes after it. */
  async #refill(least: number): Promise<void> {
    this.#buffer.restart(this.#payloadLeft);
    this.#arrived(await this.#stream.read(this.#buffer.free, Math.max(least, this.#payloadLeft)), true);
  }

  #refillNow(calls: BlockingCalls, least: number): void {
    this.#buffer.restart(this.#payloadLeft);
    this.#arrived(calls.read(this.#buffer.free, Math.max(least, this.#payloadLeft)), true);
  }

  /**
   * Reads at least one of `missing` bytes after those in the buffer. The stream may end here if the buffer is empty and `inside` does not
   * say that the bytes belong to a frame.
   */
  async #more(missing: number, inside = this.#buffer.length > 0): Promise<void> {
    this.#buffer.reserve(this.#buffer.length + missing);
    this.#arrived(await this.#stream.read(this.#buffer.free, missing), inside);
  }

  #moreNow(calls: BlockingCalls, missing: number, inside = this.#buffer.length > 0): void {
    this.#buffer.reserve(this.#buffer.length + missing);
    this.#arrived(calls.read(this.#buffer.free, missing), inside);
  }

  #arrived(count: number, inside: boolean): void {
    this.#buffer.to += count;
    this.bytesRead += count;
    if (count > 0) return;
    if (inside) throw this.#lost();
    this.#ended = true;
  }

  #lost(): GodwitError {
    return new GodwitError('GODWIT_LINK_LOST', `the stream from ${this.#stream.peer} ended inside a frame`);
  }
}

function tooLarge(what: string, bytes: number, limit: number, option: string): GodwitError {
  return new GodwitError('GODWIT_LIMIT_EXCEEDED', `${what} has ${bytes} bytes, more than ${option} = ${limit}`);
}
