import { GodwitError } from '@godwit/core';
import type { ByteStream, DetachedDescriptor } from './byte-stream.js';

/** The most bytes that are read ahead of a watched stream. */
const AHEAD_BYTES = 1024;

/**
 * A byte stream whose peer may leave while no read is pending: `watch` reads a little ahead to notice this. Later reads
 * return these bytes first. No frame is parsed for this, so that a waiting stream takes a fixed number of bytes, whatever its
 * peer sends.
 */
export class WatchedStream implements ByteStream {
  readonly peer: string;
  readonly #stream: ByteStream;
  /** The read that `watch` has begun; its bytes are handed out first. */
  #reading: Promise<number> | undefined;
  #ahead = new Uint8Array();
  #from = 0;
  #to = 0;
  #aborted = false;

  constructor(stream: ByteStream) {
    this.#stream = stream;
    this.peer = stream.peer;
  }

  /**
   * Resolves with the reason, if the peer ends its direction or the carrier breaks before another byte has come; stays
   * pending otherwise. To be called once, while no read is pending.
   */
  watch(): Promise<GodwitError> {
    this.#ahead = new Uint8Array(AHEAD_BYTES);
    const reading = this.#stream.read(this.#ahead, 1);
    this.#reading = reading;
    return new Promise((resolve) => {
      reading.then(
        (count) => {
          this.#to = count;
          if (count === 0)
            resolve(new GodwitError('GODWIT_LINK_LOST', `${this.peer} ended the stream while it waited`));
        },
        (error: unknown) => resolve(GodwitError.wrap(error, 'GODWIT_LINK_LOST', `waiting for ${this.peer}`)),
      );
    });
  }

  read(into: Uint8Array, wanted?: number): Promise<number> {
    const reading = this.#aborted ? undefined : this.#reading;
    return reading === undefined ? this.#stream.read(into, wanted) : this.#readAhead(reading, into);
  }

  get pendingBytes(): number {
    return this.#stream.pendingBytes ?? 0;
  }

  write(chunks: readonly Uint8Array[]): Promise<void> {
    return this.#stream.write(chunks);
  }

  close(): Promise<void> {
    return this.#stream.close();
  }

  abort(reason: GodwitError): void {
    this.#aborted = true;
    this.#stream.abort(reason);
  }

  detach(duplicate: (fd: number) => number): DetachedDescriptor | undefined {
    const detached = this.#stream.detach?.(duplicate);
    if (detached === undefined) return undefined;
    const ahead = this.#ahead.subarray(this.#from, this.#to);
    const unread = new Uint8Array(ahead.length + detached.unread.length);
    unread.set(ahead);
    unread.set(detached.unread, ahead.length);
    return { fd: detached.fd, unread };
  }

  async #readAhead(reading: Promise<number>, into: Uint8Array): Promise<number> {
    await reading;
    // Bytes that were read ahead are lost with the stream: the reader gets the reason.
    if (this.#aborted) return this.#stream.read(into);
    const count = Math.min(this.#to - this.#from, into.length);
    into.set(this.#ahead.subarray(this.#from, this.#from + count));
    this.#from += count;
    if (this.#from === this.#to) {
      this.#reading = undefined;
      this.#ahead = new Uint8Array();
      this.#from = this.#to = 0;
    }
    return count;
  }
}
