import type { Readable } from 'node:stream';
import { GodwitError } from '@godwit/core';
import { PendingRead, type Receiver } from './receiver.js';

/** Reads any Node `Readable`: one copy, from the chunk that Node allocated. */
export class ChunkReceiver implements Receiver {
  readonly #source: Readable;
  #rest: Uint8Array | undefined;
  #pending: PendingRead | undefined;
  #ended = false;
  #error: GodwitError | undefined;

  constructor(source: Readable) {
    this.#source = source;
    source.on('readable', () => this.#fill());
  }

  get pendingBytes(): number {
    return this.#pending?.filled ?? 0;
  }

  async read(into: Uint8Array, wanted: number): Promise<number> {
    PendingRead.check(into, this.#pending);
    const pending = new PendingRead(into, wanted);
    this.#pending = pending;
    this.#fill();
    const error = this.#error;
    if (error !== undefined && this.#pending === pending) {
      this.#pending = undefined;
      if (pending.filled === 0) throw error;
      return pending.filled;
    }
    return pending.promise;
  }

  end(): void {
    this.#ended = true;
    this.#fill();
  }

  fail(error: GodwitError): void {
    this.#error = error;
    const pending = this.#pending;
    this.#pending = undefined;
    pending?.reject(error);
  }

  abort(error: GodwitError): void {
    this.#ended = false;
    this.#rest = undefined;
    this.fail(error);
  }

  #fill(): void {
    const pending = this.#pending;
    if (pending === undefined) {
      // Reads 0 bytes, so that the end of an empty stream is noticed.
      if (this.#source.readableLength === 0) this.#source.read(0);
      return;
    }
    while (pending.missing > 0) {
      const chunk: unknown = this.#rest ?? this.#source.read();
      if (chunk === null) break;
      if (!ArrayBuffer.isView(chunk)) {
        this.fail(
          new GodwitError('GODWIT_INVALID_ARGUMENT', 'the stream must carry bytes: no encoding, no object mode'),
        );
        return;
      }
      const bytes = chunk as Uint8Array;
      const count = pending.take(bytes);
      this.#rest = count === bytes.length ? undefined : bytes.subarray(count);
    }
    if (pending.satisfied || this.#ended) {
      this.#pending = undefined;
      pending.resolve(pending.filled);
    }
  }
}
