import { GodwitError } from '@godwit/core/errors';
import type { BlockingCalls, ByteStream } from '../stream/byte-stream.js';
import { CHECKSUM_BYTES, CHECKSUM_MARK, checksumObject, crc32 } from './checksum.js';
import { byteLength } from './detach.js';
import { checkedHead } from './frame-head.js';

/** Payloads are copied and sent in pieces of this size. There are two buffers: one is filled while the other is sent. */
const STAGING_BYTES = 256 * 1024;

interface Stage {
  readonly bytes: Uint8Array;
  /** Settles when the carrier is done with the buffer. */
  sent: Promise<unknown>;
}

/** A frame that was handed to the carrier to its last byte. */
interface Handed {
  readonly bytes: number;
  readonly sent: Promise<unknown>;
}

/**
 * Writes frames with their checksums. A payload is guest memory that may change at any time: it is copied, and the copy
 * is both summed and sent.
 */
export class CheckedWriter {
  readonly #stream: ByteStream;
  #sum: number;
  /** Whether the mark is still to be sent. */
  #fresh: boolean;
  #stages: readonly [Stage, Stage] | undefined;
  #stage = 0;
  /** The buffer of `writeNow`. */
  #staging: Uint8Array | undefined;
  /** Frames that are not yet handed to the carrier as a whole. */
  #queued = 0;
  #last: Promise<unknown> = Promise.resolve();
  /** The reason why nothing more can be written: a frame was cut in the middle, or the stream is closed or dropped. */
  #broken: GodwitError | undefined;

  /** `sum`: the checksum so far of a direction that is continued; `undefined` for one that begins. */
  constructor(stream: ByteStream, sum: number | undefined) {
    this.#stream = stream;
    this.#sum = sum ?? 0;
    this.#fresh = sum === undefined;
  }

  /** The checksum of what was written so far; `undefined` before the first frame. No write may be pending. */
  get sum(): number | undefined {
    return this.#fresh ? undefined : this.#sum;
  }

  /** Writes one frame; resolves with its bytes on the wire. `payload` is `undefined` for a type without one. */
  async write(header: Uint8Array, payload: readonly Uint8Array[] | undefined): Promise<number> {
    if (this.#broken !== undefined) throw this.#broken;
    const payloadBytes = payload === undefined ? undefined : byteLength(payload);
    if (this.#queued === 0 && !payloadBytes) {
      // Nothing is awaited before the bytes are handed over, so that overlapping calls keep their order.
      const head = this.#head(header, payloadBytes);
      await this.#stream.write(head);
      return byteLength(head);
    }
    this.#queued++;
    const handing = this.#last.then(() => this.#hand(header, payload ?? [], payloadBytes));
    const done = (): void => {
      this.#queued--;
    };
    this.#last = handing.then(done, done);
    const handed = await handing;
    await handed.sent;
    return handed.bytes;
  }

  /** Does the same without promises, over a stream whose calls block. No `write` may be pending. */
  writeNow(calls: BlockingCalls, header: Uint8Array, payload: readonly Uint8Array[] | undefined): number {
    if (this.#broken !== undefined) throw this.#broken;
    if (this.#queued > 0) throw new GodwitError('GODWIT_INVALID_STATE', 'another frame is being written');
    const payloadBytes = payload === undefined ? undefined : byteLength(payload);
    try {
      let chunks = this.#head(header, payloadBytes);
      const bytes = byteLength(chunks);
      if (payload === undefined || !payloadBytes) {
        calls.write(chunks);
        return bytes;
      }
      this.#staging ??= new Uint8Array(STAGING_BYTES);
      let left = payloadBytes;
      let at = 0;
      for (const chunk of payload) {
        for (let from = 0; from < chunk.length; ) {
          const count = Math.min(chunk.length - from, STAGING_BYTES - at);
          this.#staging.set(count === chunk.length ? chunk : chunk.subarray(from, from + count), at);
          from += count;
          at += count;
          left -= count;
          if (at < STAGING_BYTES && left > 0) continue;
          const piece = this.#staging.subarray(0, at);
          this.#sum = crc32(piece, this.#sum);
          chunks.push(piece);
          if (left === 0) chunks.push(checksumObject(this.#sum));
          // A short frame is written by one call: a peer that has read its head waits for the rest.
          calls.write(chunks);
          chunks = [];
          at = 0;
        }
      }
      return bytes + payloadBytes + CHECKSUM_BYTES;
    } catch (error) {
      this.#broken = GodwitError.wrap(error, 'GODWIT_LINK_LOST', `writing to ${this.#stream.peer} failed`);
      throw this.#broken;
    }
  }

  /** Resolves when the carrier has taken everything. Nothing more can be written after the call. */
  async end(): Promise<void> {
    const closed = new GodwitError('GODWIT_INVALID_STATE', `the stream to ${this.#stream.peer} is closed for writing`);
    const last = this.#last;
    void last.then(() => {
      this.#broken ??= closed;
    });
    await last;
  }

  /** From now on no payload is touched. */
  abort(reason: GodwitError): void {
    this.#broken ??= reason;
  }

  /** The frame up to the contents of its payload, with its checksums. */
  #head(header: Uint8Array, payloadBytes: number | undefined): Uint8Array[] {
    const { bytes, sum } = checkedHead(header, payloadBytes, this.#sum);
    const chunks = this.#fresh ? [CHECKSUM_MARK, bytes] : [bytes];
    this.#fresh = false;
    this.#sum = sum;
    return chunks;
  }

  async #hand(header: Uint8Array, payload: readonly Uint8Array[], payloadBytes: number | undefined): Promise<Handed> {
    if (this.#broken !== undefined) throw this.#broken;
    let chunks = this.#head(header, payloadBytes);
    let bytes = byteLength(chunks);
    const sent: Promise<void>[] = [];
    const write = (): Promise<void> => {
      const writing = this.#stream.write(chunks);
      // The caller receives the error from `sent`; a frame that fails in its middle is thrown before `sent` is awaited.
      writing.catch(() => undefined);
      sent.push(writing);
      chunks = [];
      return writing;
    };
    if (payloadBytes === undefined || payloadBytes === 0) {
      void write();
      return { bytes, sent: Promise.all(sent) };
    }
    try {
      let left = payloadBytes;
      let stage = await this.#nextStage();
      let at = 0;
      for (const chunk of payload) {
        for (let from = 0; from < chunk.length; ) {
          const count = Math.min(chunk.length - from, STAGING_BYTES - at);
          stage.bytes.set(count === chunk.length ? chunk : chunk.subarray(from, from + count), at);
          from += count;
          at += count;
          left -= count;
          if (at < STAGING_BYTES && left > 0) continue;
          const piece = stage.bytes.subarray(0, at);
          this.#sum = crc32(piece, this.#sum);
          chunks.push(piece);
          if (left === 0) chunks.push(checksumObject(this.#sum));
          stage.sent = write();
          at = 0;
          if (left > 0) stage = await this.#nextStage();
        }
      }
      bytes += payloadBytes + CHECKSUM_BYTES;
    } catch (error) {
      this.#broken ??= GodwitError.wrap(error, 'GODWIT_LINK_LOST', `writing to ${this.#stream.peer} failed`);
      throw error;
    }
    return { bytes, sent: Promise.all(sent) };
  }

  /** Resolves with the other buffer, once the carrier is done with its contents. */
  async #nextStage(): Promise<Stage> {
    this.#stages ??= [emptyStage(), emptyStage()];
    this.#stage = 1 - this.#stage;
    const stage = this.#stages[this.#stage] as Stage;
    await stage.sent;
    if (this.#broken !== undefined) throw this.#broken;
    return stage;
  }
}

function emptyStage(): Stage {
  return { bytes: new Uint8Array(STAGING_BYTES), sent: Promise.resolve() };
}
