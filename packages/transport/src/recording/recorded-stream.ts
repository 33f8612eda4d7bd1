import { type Frame, type FrameStream, GodwitError, type ReceivedFrame } from '@godwit/core';
import type { PayloadCopy } from './copy-pool.js';
import type { RecordedError, RecordedTrack } from './recording-format.js';

/** The part of a recording that its streams need. */
export interface Tape {
  /** Returns memory for a payload of this many bytes, which the link and the file use. */
  copy(byteLength: number, holders: number): PayloadCopy;
  /** Adds a frame. `copy` is released once it is in the file. Throws for a frame that cannot be encoded. */
  record(track: RecordedTrack, frame: Frame, copy: PayloadCopy | undefined): void;
  recordEnd(track: RecordedTrack, error: RecordedError | undefined): void;
  /** Throws when the recording has failed and the migration must not go on without it. */
  check(): void;
  /** Whether the disk is behind, and frames have to wait for it. */
  readonly behind: boolean;
  /** Calls `then` once the disk is no longer behind; the returned function cancels the call. */
  caughtUp(then: () => void): () => void;
}

/** A frame stream whose frames are all recorded. The same copy of a payload is sent and recorded. */
export class RecordedStream implements FrameStream {
  readonly #stream: FrameStream;
  readonly #tape: Tape;
  readonly #out: RecordedTrack;
  readonly #in: RecordedTrack;
  /** A frame whose payload has not been read. */
  #pending: ReceivedFrame | undefined;
  #outEnded = false;
  #inEnded = false;
  /** Ends the waits for the disk when the stream is dropped. */
  readonly #waits = new Set<(error: GodwitError) => void>();
  #dropped: GodwitError | undefined;

  constructor(stream: FrameStream, tape: Tape, out: RecordedTrack) {
    this.#stream = stream;
    this.#tape = tape;
    this.#out = out;
    this.#in = { ...out, sender: out.sender === 'source' ? 'destination' : 'source' };
  }

  get bytesWritten(): number {
    return this.#stream.bytesWritten;
  }

  get bytesRead(): number {
    return this.#stream.bytesRead;
  }

  /** Whether the wire has checksums; a recording has none. */
  get checksums(): boolean {
    return this.#stream.checksums === true;
  }

  async write(frame: Frame, payload?: readonly Uint8Array[]): Promise<void> {
    // Nothing is awaited before the frame is handed over, so that overlapping calls keep their order, in the file as on
    // the stream.
    if (frame.type !== 'go' && frame.type !== 'error') this.#tape.check();
    const copy = payload === undefined ? undefined : this.#gather(payload);
    this.#tape.record(this.#out, frame, copy);
    try {
      await this.#stream.write(frame, copy === undefined ? undefined : [copy.bytes]);
    } catch (error) {
      // The copy is not released: a carrier that cannot cancel a write may still be reading it.
      this.#endOut(GodwitError.wrap(error, 'GODWIT_LINK_LOST', 'writing failed'));
      throw error;
    }
    copy?.release();
    await this.#waitForDisk();
  }

  async read(): Promise<ReceivedFrame | null> {
    this.#tape.check();
    const received = await this.#reading(() => this.#stream.read());
    if (received === null) {
      this.#endIn(undefined);
      return null;
    }
    if (received.payloadBytes > 0) {
      this.#pending = received;
    } else {
      this.#tape.record(this.#in, received.frame, undefined);
      await this.#waitForDisk();
    }
    return received;
  }

  async readPayload(into: readonly Uint8Array[]): Promise<void> {
    const received = this.#pending;
    let total = 0;
    for (const chunk of into) total += chunk.length;
    // Without a payload, or with wrong lengths, the stream itself answers with its own error.
    if (received === undefined || received.payloadBytes !== total) return this.#stream.readPayload(into);
    const bytes = await this.#takePayload(received);
    let at = 0;
    for (const chunk of into) {
      chunk.set(bytes.bytes.subarray(at, at + chunk.length));
      at += chunk.length;
    }
    bytes.release();
    await this.#waitForDisk();
  }

  async skipPayload(): Promise<void> {
    const received = this.#pending;
    if (received === undefined) return this.#stream.skipPayload();
    (await this.#takePayload(received)).release();
    await this.#waitForDisk();
  }

  close(): Promise<void> {
    this.#endOut(undefined);
    return this.#stream.close();
  }

  abort(reason: GodwitError): void {
    this.#endOut(reason);
    this.#dropped ??= reason;
    this.#stream.abort(reason);
    for (const end of this.#waits) end(reason);
    this.#waits.clear();
  }

  async settled(): Promise<void> {
    await this.#stream.settled?.();
  }

  /** Reads the payload and records its frame. The copy does not change, and guest memory is not read again. */
  async #takePayload(received: ReceivedFrame): Promise<PayloadCopy> {
    const copy = this.#tape.copy(received.payloadBytes, 2);
    await this.#reading(() => this.#stream.readPayload([copy.bytes]));
    this.#pending = undefined;
    this.#tape.record(this.#in, received.frame, copy);
    return copy;
  }

  async #reading<T>(read: () => Promise<T>): Promise<T> {
    try {
      return await read();
    } catch (error) {
      this.#endIn(GodwitError.wrap(error, 'GODWIT_LINK_LOST', 'reading failed'));
      throw error;
    }
  }

  #gather(payload: readonly Uint8Array[]): PayloadCopy {
    let total = 0;
    for (const chunk of payload) total += chunk.length;
    const copy = this.#tape.copy(total, 2);
    let at = 0;
    for (const chunk of payload) {
      copy.bytes.set(chunk, at);
      at += chunk.length;
    }
    return copy;
  }

  async #waitForDisk(): Promise<void> {
    if (!this.#tape.behind) return;
    if (this.#dropped !== undefined) throw this.#dropped;
    await new Promise<void>((resolve, reject) => {
      const forget = this.#tape.caughtUp(() => {
        this.#waits.delete(end);
        resolve();
      });
      const end = (error: GodwitError): void => {
        forget();
        reject(error);
      };
      this.#waits.add(end);
    });
  }

  #endOut(error: GodwitError | undefined): void {
    if (this.#outEnded) return;
    this.#outEnded = true;
    this.#tape.recordEnd(this.#out, error);
  }

  #endIn(error: GodwitError | undefined): void {
    if (this.#inEnded) return;
    this.#inEnded = true;
    this.#tape.recordEnd(this.#in, error);
  }
}
