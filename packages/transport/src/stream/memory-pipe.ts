import { GodwitError } from '@godwit/core';
import { resumeInFairTurn } from './event-loop-turn.js';
import { PendingRead } from './receiver.js';

interface PendingWrite {
  readonly chunks: readonly Uint8Array[];
  /** The first chunk with bytes left, and how many of its bytes were already taken. */
  chunk: number;
  offset: number;
  resolve(): void;
  reject(error: GodwitError): void;
}

/**
 * One direction of an in-process stream. Like a pipe of the kernel it buffers a bounded number of bytes; further bytes
 * stay in the writer's memory until the reader takes them.
 */
export class MemoryPipe {
  readonly #peer: string;
  readonly #capacity: number;
  #buffer: Uint8Array | undefined;
  #from = 0;
  #to = 0;
  readonly #writes: PendingWrite[] = [];
  #reading: PendingRead | undefined;
  #onDrained: (() => void)[] = [];
  #ended = false;
  #writerError: GodwitError | undefined;
  #readerError: GodwitError | undefined;

  constructor(peer: string, capacity: number) {
    this.#peer = peer;
    this.#capacity = capacity;
  }

  async write(chunks: readonly Uint8Array[]): Promise<void> {
    if (this.#writerError !== undefined) throw this.#writerError;
    if (this.#ended) throw new GodwitError('GODWIT_INVALID_STATE', `the stream to ${this.#peer} is closed for writing`);
    return new Promise((resolve, reject) => {
      this.#writes.push({ chunks, chunk: 0, offset: 0, resolve: () => resumeInFairTurn(resolve), reject });
      this.#pump();
    });
  }

  get pendingBytes(): number {
    return this.#reading?.filled ?? 0;
  }

  async read(into: Uint8Array, wanted: number): Promise<number> {
    PendingRead.check(into, this.#reading);
    if (this.#readerError !== undefined) throw this.#readerError;
    const reading = new PendingRead(into, wanted);
    this.#reading = reading;
    this.#pump();
    return reading.promise;
  }

  /** Resolves once all bytes are in the pipe's buffer or were read. */
  end(): Promise<void> {
    this.#ended = true;
    return new Promise((resolve) => {
      this.#onDrained.push(resolve);
      this.#pump();
    });
  }

  fail(forWriter: GodwitError, forReader: GodwitError): void {
    if (this.#writerError === undefined) this.#writerError = forWriter;
    // A stream that has ended and is empty was ended in order, and reads return its end.
    const left = this.#ended && this.#writes.length === 0;
    if (this.#readerError === undefined && !(left && forReader.code === 'GODWIT_LINK_LOST'))
      this.#readerError = forReader;
    for (const write of this.#writes.splice(0)) write.reject(this.#writerError);
    const reading = this.#reading;
    this.#reading = undefined;
    reading?.reject(this.#readerError ?? forReader);
    if (this.#readerError !== undefined) {
      this.#from = this.#to = 0;
      this.#buffer = undefined;
    }
    this.#drained();
  }

  #pump(): void {
    const reading = this.#reading;
    if (reading !== undefined) {
      if (this.#from < this.#to)
        this.#from += reading.take((this.#buffer as Uint8Array).subarray(this.#from, this.#to));
      // The reader takes bytes from the writers only when the buffer is empty, to keep the order.
      if (this.#from === this.#to) {
        while (reading.missing > 0 && this.#writes.length > 0) this.#move((bytes) => reading.take(bytes));
      }
    }
    while (this.#writes.length > 0 && this.#space() > 0) this.#move((bytes) => this.#store(bytes));
    if (this.#writes.length === 0) this.#drained();
    if (reading === undefined) return;
    const over = this.#ended && this.#writes.length === 0 && this.#from === this.#to;
    if (!reading.satisfied && !over) return;
    this.#reading = undefined;
    resumeInFairTurn(() => reading.resolve(reading.filled));
  }

  /** Offers the oldest write's next bytes to `take`, and settles the write when they were its last. */
  #move(take: (bytes: Uint8Array) => number): void {
    const write = this.#writes[0] as PendingWrite;
    const chunk = write.chunks[write.chunk];
    if (chunk !== undefined && write.offset < chunk.length) write.offset += take(chunk.subarray(write.offset));
    if (chunk === undefined || write.offset === chunk.length) {
      write.chunk++;
      write.offset = 0;
    }
    if (write.chunk < write.chunks.length) return;
    this.#writes.shift();
    write.resolve();
  }

  #space(): number {
    if (this.#from === this.#to) this.#from = this.#to = 0;
    return this.#capacity - this.#to;
  }

  #store(bytes: Uint8Array): number {
    this.#buffer ??= new Uint8Array(this.#capacity);
    const count = Math.min(bytes.length, this.#capacity - this.#to);
    this.#buffer.set(bytes.subarray(0, count), this.#to);
    this.#to += count;
    return count;
  }

  #drained(): void {
    for (const resolve of this.#onDrained.splice(0)) resolve();
  }
}
