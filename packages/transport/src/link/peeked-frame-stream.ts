import { type Frame, type FrameStream, GodwitError, type PayloadTarget, type ReceivedFrame } from '@godwit/core';
import type { Detachable, DetachedStream } from '../framing/detach.js';

/** A frame stream whose next frame was already asked for; the first `read` hands it out. */
export class PeekedFrameStream implements FrameStream, Detachable {
  readonly #stream: FrameStream;
  #peeked: Promise<ReceivedFrame | null> | undefined;

  constructor(stream: FrameStream, peeked: Promise<ReceivedFrame | null>) {
    this.#stream = stream;
    this.#peeked = peeked;
    // The first `read` rejects with a failure; until then the failure must not be an unhandled rejection.
    peeked.catch(() => undefined);
  }

  get bytesWritten(): number {
    return this.#stream.bytesWritten;
  }

  get bytesRead(): number {
    return this.#stream.bytesRead;
  }

  get checksums(): boolean {
    return this.#stream.checksums === true;
  }

  write(frame: Frame, payload?: readonly Uint8Array[]): Promise<void> {
    return this.#stream.write(frame, payload);
  }

  async read(): Promise<ReceivedFrame | null> {
    const peeked = this.#peeked;
    if (peeked === undefined) return this.#stream.read();
    this.#peeked = undefined;
    return peeked;
  }

  get takesFiles(): boolean {
    return this.#stream.takesFiles === true;
  }

  async readPayload(into: readonly PayloadTarget[]): Promise<void> {
    this.#mustHaveRead();
    return this.#stream.readPayload(into);
  }

  async skipPayload(): Promise<void> {
    this.#mustHaveRead();
    return this.#stream.skipPayload();
  }

  close(): Promise<void> {
    return this.#stream.close();
  }

  abort(reason: GodwitError): void {
    this.#stream.abort(reason);
  }

  detach(duplicate: (fd: number) => number): DetachedStream | undefined {
    const stream: FrameStream & Partial<Detachable> = this.#stream;
    return stream.detach?.(duplicate, this.#peeked !== undefined);
  }

  #mustHaveRead(): void {
    if (this.#peeked !== undefined) throw new GodwitError('GODWIT_INVALID_STATE', 'read a frame before its payload');
  }
}
