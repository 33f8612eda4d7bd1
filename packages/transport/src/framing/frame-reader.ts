import { writeSync } from 'node:fs';
import { GodwitError } from '@godwit/core/errors';
import type { FileTarget, PayloadTarget } from '@godwit/core/pages';
import type { ByteStream } from '../stream/byte-stream.js';
import { CHECKSUM_BYTES, crc32, damaged, INT32, wrongChecksum } from './checksum.js';
import { foreignBytes } from './foreign-bytes.js';
import type { FrameLimits } from './frame-limits.js';

/** The size of a stream's first buffer, in bytes: a peer that sends nothing takes no more memory. */
const FIRST_BUFFER = 16 * 1024;
/** The size to which the buffer grows once payloads are gathered in it, in bytes. */
const FULL_BUFFER = 256 * 1024;
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

/** A frame that was read, and the checksum before it. */
export interface LastFrame<F> {
  readonly frame: F;
  readonly payloadBytes: number;
  readonly sum: number | undefined;
}

/**
 * Reads frames from a byte stream, payloads directly into their target memory. Where the peer sends checksums, a frame is handed out once
 * the checksum of its header was verified, and `readPayload` resolves once that of the payload was.
 */
export class FrameReader<F extends { readonly type: string }> {
  readonly #stream: Pick<ByteStream, 'peer' | 'read' | 'readIntoFile'>;
  readonly #limits: FrameLimits;
  readonly #kind: HeaderKind<F>;
  #buffer = new Uint8Array(FIRST_BUFFER);
  #from = 0;
  #to = 0;
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
    stream: Pick<ByteStream, 'peer' | 'read' | 'readIntoFile'>,
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
    return this.bytesRead - (this.#to - this.#from);
  }

  /** Bytes that have arrived and were not handed out, between two frames or in an incomplete one. */
  get unread(): Uint8Array {
    return this.#buffer.slice(this.#from, this.#to);
  }

  /** Whether no read is pending. */
  get idle(): boolean {
    return !this.#busy;
  }

  read(): Promise<{ frame: F; payloadBytes: number } | null> {
    return this.#exclusively(async () => {
      this.last = undefined;
      await this.#readMark();
      const sum = this.#sum;
      const received = await this.#readFrame();
      this.last = received === null ? undefined : { ...received, sum };
      return received;
    });
  }

  readPayload(into: readonly PayloadTarget[]): Promise<void> {
    return this.#exclusively(async () => {
      let total = 0;
      for (const chunk of into) total += chunk.length;
      if (total !== this.#payloadLeft) {
        throw new GodwitError(
          'GODWIT_INVALID_ARGUMENT',
          `the payload has ${this.#payloadLeft} bytes, the chunks ${total}`,
        );
      }
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
    });
  }

  skipPayload(): Promise<void> {
    return this.#exclusively(async () => {
      if (this.#payloadLeft === 0) return;
      while (this.#payloadLeft > 0) {
        if (this.#from === this.#to) await this.#refill(1);
        const count = Math.min(this.#to - this.#from, this.#payloadLeft);
        this.#count(this.#buffer.subarray(this.#from, this.#from + count));
        this.#from += count;
      }
      await this.#verifyPayload();
    });
  }

  /** Throws away everything until the peer ends its direction. */
  async drain(): Promise<void> {
    while ((await this.#stream.read(this.#buffer)) > 0);
  }

  /** A stream that has failed once stays failed, since the start of the next frame is not known any more. */
  async #exclusively<T>(work: () => Promise<T>): Promise<T> {
    if (this.#busy) throw new GodwitError('GODWIT_INVALID_STATE', 'a read of this frame stream is pending already');
    if (this.#broken !== undefined) throw this.#broken;
    this.#busy = true;
    try {
      return await work();
    } catch (error) {
      const failure = GodwitError.wrap(error, 'GODWIT_LINK_LOST', `reading from ${this.#stream.peer} failed`);
      if (failure.code !== 'GODWIT_INVALID_ARGUMENT' && failure.code !== 'GODWIT_INVALID_STATE') this.#broken = failure;
      throw failure;
    } finally {
      this.#busy = false;
    }
  }

  async #readFrame(): Promise<{ frame: F; payloadBytes: number } | null> {
    if (this.#payloadLeft > 0) {
      throw new GodwitError(
        'GODWIT_INVALID_STATE',
        `${this.#payloadLeft} bytes of payload must be read or skipped first`,
      );
    }
    if (this.#ended) return null;
    if (this.#from === this.#to && !(await this.#more(1))) {
      this.#ended = true;
      return null;
    }
    // The first byte is checked as soon as it is there, since a peer may never send five bytes.
    if (this.#buffer[this.#from] !== UINT32) {
      if (this.#sum === undefined) throw foreignBytes(this.#buffer.subarray(this.#from, this.#to));
      throw damaged(this.#stream.peer, `a frame starts with ce, not with ${this.#hexByte(this.#from)}`);
    }
    await this.#need(PREFIX);
    if (this.#sum !== undefined) return this.#readChecked(this.#sum);
    const head = PREFIX + this.#headerBytes();
    await this.#need(head);
    const frame = this.#kind.parse(this.#buffer.subarray(this.#from + PREFIX, this.#from + head), this.#limits);
    if (!this.#kind.hasPayload(frame)) {
      this.#from += head;
      return { frame, payloadBytes: 0 };
    }

    // The head is taken off the buffer only as a whole: until then its bytes are `unread`.
    await this.#need(head + PREFIX);
    return this.#payloadBegins(frame, head);
  }

  /** Reads the mark, if the peer begins with it. */
  async #readMark(): Promise<void> {
    if (!this.#fresh) return;
    if (this.#from === this.#to && !(await this.#more(1))) return;
    if (this.#buffer[this.#from] === INT32) {
      await this.#need(CHECKSUM_BYTES);
      const said = this.#uint32(this.#from + 1);
      if (said !== 0) throw foreignBytes(this.#buffer.subarray(this.#from, this.#to));
      this.#from += CHECKSUM_BYTES;
      this.#sum = 0;
    }
    this.#fresh = false;
  }

  #headerBytes(): number {
    const headerBytes = this.#uint32(this.#from + 1);
    if (headerBytes <= this.#limits.maximumHeaderBytes) return headerBytes;
    throw tooLarge('a frame header', headerBytes, this.#limits.maximumHeaderBytes, 'maximumHeaderBytes');
  }

  /**
   * Reads a frame with checksums, after bytes with the checksum `before`. No length is used before its checksum was verified. The header's
   * checksum covers the length of a payload after it too, if the header's type has one.
   */
  async #readChecked(before: number): Promise<{ frame: F; payloadBytes: number }> {
    const { peer } = this.#stream;
    const start = PREFIX + CHECKSUM_BYTES;
    await this.#need(start);
    const prefix = crc32(this.#buffer.subarray(this.#from, this.#from + PREFIX), before);
    const saidOfLength = this.#checksum(this.#from + PREFIX);
    if (saidOfLength !== prefix) throw wrongChecksum(peer, 'the length of a frame header', saidOfLength, prefix);
    const head = start + this.#headerBytes();
    await this.#need(head + CHECKSUM_BYTES);
    const said = this.#checksum(this.#from + head);
    const header = this.#buffer.subarray(this.#from + start, this.#from + head);
    const sum = crc32(header, prefix);
    let frame: F;
    try {
      frame = this.#kind.parse(header, this.#limits);
    } catch (error) {
      // A malformed header with a right checksum was sent so, and its own error is thrown.
      throw said === sum ? error : wrongChecksum(peer, 'a frame header', said, sum);
    }
    if (!this.#kind.hasPayload(frame)) {
      if (said !== sum) throw wrongChecksum(peer, `a "${frame.type}" frame`, said, sum);
      this.#from += head + CHECKSUM_BYTES;
      this.#sum = sum;
      return { frame, payloadBytes: 0 };
    }
    await this.#need(head + CHECKSUM_BYTES + PREFIX);
    const at = this.#from + head + CHECKSUM_BYTES;
    const whole = crc32(this.#buffer.subarray(at, at + PREFIX), sum);
    if (said !== whole) throw wrongChecksum(peer, `the head of a "${frame.type}" frame`, said, whole);
    const received = this.#payloadBegins(frame, head + CHECKSUM_BYTES);
    this.#sum = whole;
    return received;
  }

  /** Takes the head off the buffer: `head` bytes, and the start of the payload after them. */
  #payloadBegins(frame: F, head: number): { frame: F; payloadBytes: number } {
    const start = this.#buffer[this.#from + head] as number;
    if (start !== BIN32) {
      throw new GodwitError(
        'GODWIT_BAD_STREAM',
        `a ${frame.type} frame needs a payload, which starts with c6, got ${start.toString(16)}`,
      );
    }
    const payloadBytes = this.#uint32(this.#from + head + 1);
    if (payloadBytes > this.#limits.maximumPayloadBytes) {
      throw tooLarge(
        `the payload of a ${frame.type} frame`,
        payloadBytes,
        this.#limits.maximumPayloadBytes,
        'maximumPayloadBytes',
      );
    }
    this.#from += head + PREFIX;
    this.#payloadLeft = payloadBytes;
    return { frame, payloadBytes };
  }

  async #fill(chunk: Uint8Array, start: number): Promise<void> {
    let at = start;
    while (at < chunk.length) {
      const missing = chunk.length - at;
      if (missing >= DIRECT_BYTES) {
        const count = await this.#stream.read(at === 0 ? chunk : chunk.subarray(at), missing);
        if (count === 0) throw this.#lost();
        this.bytesRead += count;
        this.#count(chunk.subarray(at, at + count));
        at += count;
      } else {
        await this.#refill(missing);
        at += this.#takeBuffered(at === 0 ? chunk : chunk.subarray(at));
      }
    }
  }

  /**
   * Puts bytes of the payload into a file: first the bytes that have come already, and then, if many are left and there are no checksums,
   * the rest without passing through this process's memory.
   */
  async #fillFile({ fd, position, length }: FileTarget): Promise<void> {
    const stream = this.#stream;
    let done = 0;
    while (done < length) {
      const missing = length - done;
      const past = this.#from === this.#to && this.#sum === undefined && missing >= DIRECT_BYTES;
      if (past && stream.readIntoFile !== undefined) {
        const count = await stream.readIntoFile(fd, position + done, missing);
        if (count === 0) throw this.#lost();
        this.bytesRead += count;
        this.#payloadLeft -= count;
        done += count;
        continue;
      }
      if (this.#from === this.#to) await this.#refill(missing);
      const bytes = this.#buffer.subarray(this.#from, Math.min(this.#to, this.#from + missing));
      for (let at = 0; at < bytes.length; ) {
        at += writeSync(fd, bytes, at, bytes.length - at, position + done + at);
      }
      this.#count(bytes);
      this.#from += bytes.length;
      done += bytes.length;
    }
  }

  #takeBuffered(into: Uint8Array): number {
    const count = Math.min(this.#to - this.#from, into.length);
    if (count === 0) return 0;
    const bytes = this.#buffer.subarray(this.#from, this.#from + count);
    into.set(bytes);
    this.#count(bytes);
    this.#from += count;
    return count;
  }

  /** Counts bytes of payload that have come. */
  #count(bytes: Uint8Array): void {
    this.#payloadLeft -= bytes.length;
    if (this.#sum !== undefined) this.#sum = crc32(bytes, this.#sum);
  }

  async #verifyPayload(): Promise<void> {
    if (this.#sum === undefined) return;
    await this.#need(CHECKSUM_BYTES);
    const said = this.#checksum(this.#from);
    if (said !== this.#sum) throw wrongChecksum(this.#stream.peer, 'a payload', said, this.#sum);
    this.#from += CHECKSUM_BYTES;
  }

  #checksum(at: number): number {
    if (this.#buffer[at] === INT32) return this.#uint32(at + 1);
    throw damaged(this.#stream.peer, `a checksum starts with d2, not with ${this.#hexByte(at)}`);
  }

  #hexByte(at: number): string {
    return (this.#buffer[at] as number).toString(16).padStart(2, '0');
  }

  /** Fills the empty buffer with at least `least` bytes of payload, and possibly bytes after it. */
  async #refill(least: number): Promise<void> {
    if (this.#buffer.length < FULL_BUFFER && this.#payloadLeft > this.#buffer.length) {
      this.#buffer = new Uint8Array(FULL_BUFFER);
    }
    this.#from = this.#to = 0;
    if (!(await this.#more(Math.max(least, this.#payloadLeft)))) throw this.#lost();
  }

  /** Makes the next `count` bytes contiguous in the buffer. */
  async #need(count: number): Promise<void> {
    if (this.#to - this.#from >= count) return;
    if (count > this.#buffer.length) {
      const grown = new Uint8Array(count);
      grown.set(this.#buffer.subarray(this.#from, this.#to));
      this.#buffer = grown;
      this.#to -= this.#from;
      this.#from = 0;
    } else if (this.#from + count > this.#buffer.length) {
      this.#buffer.copyWithin(0, this.#from, this.#to);
      this.#to -= this.#from;
      this.#from = 0;
    }
    while (this.#to - this.#from < count) {
      if (!(await this.#more(count - (this.#to - this.#from)))) throw this.#lost();
    }
  }

  /** Reads at least one byte after those in the buffer; resolves with false when the peer has ended its direction. */
  async #more(wanted: number): Promise<boolean> {
    if (this.#from === this.#to) this.#from = this.#to = 0;
    const count = await this.#stream.read(this.#buffer.subarray(this.#to), wanted);
    this.#to += count;
    this.bytesRead += count;
    return count > 0;
  }

  #uint32(at: number): number {
    const b = this.#buffer;
    return (
      (b[at] as number) * 2 ** 24 + ((b[at + 1] as number) << 16) + ((b[at + 2] as number) << 8) + (b[at + 3] as number)
    );
  }

  #lost(): GodwitError {
    return new GodwitError('GODWIT_LINK_LOST', `the stream from ${this.#stream.peer} ended inside a frame`);
  }
}

function tooLarge(what: string, bytes: number, limit: number, option: string): GodwitError {
  return new GodwitError('GODWIT_LIMIT_EXCEEDED', `${what} has ${bytes} bytes, more than ${option} = ${limit}`);
}
