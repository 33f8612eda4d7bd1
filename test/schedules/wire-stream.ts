import { type Frame, type FrameStream, GodwitError, type ReceivedFrame } from '@godwit/core';
import { type HostProcess, never } from './host-process.js';
import { LOST, type Parcel, type Pipe } from './pipe.js';

/** Framing bytes that are counted for each frame. */
const FRAME_BYTES = 16;

/** Observes the frames that this end writes and the payloads that it reads. Returns false to lose the parcel. */
export type StreamTap = (parcel: Parcel, stage: 'sent' | 'reading') => boolean;

/** One process's end of a stream. Once the process has died, no call on it settles. */
export class WireStream implements FrameStream {
  readonly process: HostProcess;
  readonly checksums: boolean;
  bytesWritten = 0;
  bytesRead = 0;
  readonly #out: Pipe;
  readonly #in: Pipe;
  readonly #tap: StreamTap;
  /** The frame whose payload is to be read. */
  #current: Parcel | undefined;
  #released = false;

  constructor(process: HostProcess, checksums: boolean, [out, into]: readonly [Pipe, Pipe], tap: StreamTap) {
    this.process = process;
    this.checksums = checksums;
    this.#out = out;
    this.#in = into;
    this.#tap = tap;
  }

  /** Whether the process still holds this end: it was neither closed nor dropped, and has not failed. */
  get open(): boolean {
    return !this.#released && !(this.#out.done && this.#in.done);
  }

  write(frame: Frame, payload?: readonly Uint8Array[]): Promise<void> {
    if (!this.process.alive) return never();
    const copy = copyOf(frame);
    // The payload is copied when the wire takes it: until then it is borrowed and may change.
    const writing = this.#out.write(() => {
      const parcel: Parcel = { frame: copy, payload: joined(payload), broken: false };
      this.bytesWritten += FRAME_BYTES + (parcel.payload?.byteLength ?? 0);
      return this.#tap(parcel, 'sent') ? parcel : undefined;
    });
    return this.process.whileAlive(writing);
  }

  read(): Promise<ReceivedFrame | null> {
    return this.process.whileAlive(this.#read());
  }

  async #read(): Promise<ReceivedFrame | null> {
    if (this.#current?.payload !== undefined) throw new Error('the payload of the last frame was not read');
    const parcel = await this.#in.read();
    if (parcel === null) return null;
    this.bytesRead += FRAME_BYTES;
    if (parcel.broken) {
      // The stream cannot be parsed beyond a broken frame.
      const reader = this.checksums
        ? new GodwitError('GODWIT_LINK_LOST', 'a checksum differs')
        : new GodwitError('GODWIT_BAD_STREAM', 'these bytes are no frame');
      this.#in.fail({ reader, writer: LOST.writer });
      throw reader;
    }
    this.#current = parcel;
    return { frame: parcel.frame, payloadBytes: parcel.payload?.byteLength ?? 0 };
  }

  readPayload(into: readonly Uint8Array[]): Promise<void> {
    return this.process.whileAlive(this.#readPayload(into));
  }

  /** Reads a payload in two parts, as from a socket: the second part may arrive later, or never if the stream is cut. */
  async #readPayload(into: readonly Uint8Array[]): Promise<void> {
    const parcel = this.#current;
    const payload = parcel?.payload ?? new Uint8Array();
    const half = payload.byteLength >>> 1;
    this.#in.throwIfCut();
    fill(into, payload, 0, half);
    if (parcel !== undefined) this.#tap(parcel, 'reading');
    await Promise.resolve();
    this.#in.throwIfCut();
    if (!this.process.alive) return never();
    this.#current = undefined;
    fill(into, payload, half, payload.byteLength);
    this.bytesRead += payload.byteLength;
  }

  async skipPayload(): Promise<void> {
    this.#current = undefined;
  }

  close(): Promise<void> {
    return this.process.whileAlive(this.#close());
  }

  async #close(): Promise<void> {
    this.#in.unbounded();
    await this.#out.end();
    await this.#in.over;
    this.#released = true;
  }

  abort(reason: GodwitError): void {
    if (!this.process.alive) return;
    this.#released = true;
    // Both ends have ended their direction: the peer reads the rest without an error.
    if (this.#in.ended && this.#out.ending) return;
    const lost = new GodwitError('GODWIT_LINK_LOST', 'the peer dropped the link');
    this.#in.fail({ reader: reason, writer: lost });
    this.#out.failBehind({ reader: lost, writer: reason });
  }

  /** Resets the stream of a dead process: the peer gets the reset after the frames in flight. */
  reset(): void {
    this.#in.fail(LOST);
    this.#out.failBehind(LOST);
  }

  /** Cuts the direction that this end writes; with `delivered` after the frames in flight. */
  cut(delivered: boolean): void {
    if (delivered) this.#out.failBehind(LOST);
    else this.#out.fail(LOST);
  }
}

/** Copies a frame, as an encoder does: the writer may change its arrays afterwards. */
function copyOf(frame: Frame): Frame {
  if (frame.type === 'hello' || frame.type === 'welcome') return structuredClone(frame);
  const copy: Record<string, unknown> = { ...frame };
  for (const key in copy) {
    const value = copy[key];
    if (Array.isArray(value)) copy[key] = value.slice();
  }
  return copy as unknown as Frame;
}

/** Copies the bytes `from` to `to` of `payload` to their places in `into`. */
function fill(into: readonly Uint8Array[], payload: Uint8Array, from: number, to: number): void {
  let at = 0;
  for (const chunk of into) {
    const first = Math.max(from - at, 0);
    const last = Math.min(to - at, chunk.byteLength);
    if (first < last) chunk.set(payload.subarray(at + first, at + last), first);
    at += chunk.byteLength;
  }
  if (at !== payload.byteLength) throw new Error(`${at} bytes asked for, the payload has ${payload.byteLength}`);
}

function joined(chunks: readonly Uint8Array[] | undefined): Uint8Array | undefined {
  if (chunks === undefined) return undefined;
  const whole = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.byteLength, 0));
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.byteLength;
  }
  return whole.byteLength > 0 ? whole : undefined;
}
