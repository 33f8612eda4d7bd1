import { GodwitError } from '@godwit/core';
import type { ByteStream } from './byte-stream.js';
import { cancelled, throwIfCancelled } from './cancellation.js';

/** The most streams that wait to be accepted; further ones are dropped, since connecting costs a peer nothing. */
const MOST_WAITING = 128;

interface Waiter {
  resolve(stream: ByteStream): void;
  reject(error: GodwitError): void;
}

/**
 * Brings incoming streams and calls of `accept` together, whichever comes first; listeners are built on it. At most 128
 * streams wait; further ones are dropped.
 *
 * @example
 * const queue = new AcceptQueue('room:a');
 * server.on('connection', (socket) => queue.push(streamOf(socket)));
 * const stream = await queue.shift(signal); // what `accept` of the listener returns
 */
export class AcceptQueue {
  readonly #address: string;
  readonly #streams: ByteStream[] = [];
  readonly #waiters = new Set<Waiter>();
  #closed = false;

  constructor(address: string) {
    this.#address = address;
  }

  /** Takes a stream; drops it when the queue is full or closed. */
  push(stream: ByteStream): void {
    for (const waiter of this.#waiters) {
      this.#waiters.delete(waiter);
      waiter.resolve(stream);
      return;
    }
    if (!this.#closed && this.#streams.length < MOST_WAITING) this.#streams.push(stream);
    else stream.abort(new GodwitError('GODWIT_LIMIT_EXCEEDED', `${this.#address} takes no more streams now`));
  }

  /** Resolves with the next stream, with the guarantees of `Listener.accept`. */
  async shift(signal?: AbortSignal): Promise<ByteStream> {
    const what = `accepting on ${this.#address}`;
    throwIfCancelled(signal, what);
    const first = this.#streams.shift();
    if (first !== undefined) return first;
    if (this.#closed) throw this.#closedError();
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        this.#waiters.delete(waiter);
        if (signal !== undefined) reject(cancelled(signal, what));
      };
      const waiter: Waiter = {
        resolve: (stream) => {
          signal?.removeEventListener('abort', onAbort);
          resolve(stream);
        },
        reject: (error) => {
          signal?.removeEventListener('abort', onAbort);
          reject(error);
        },
      };
      this.#waiters.add(waiter);
      signal?.addEventListener('abort', onAbort, { once: true });
    });
  }

  /** Drops the waiting streams, and fails every `shift` from now on. */
  close(): void {
    this.#closed = true;
    for (const stream of this.#streams.splice(0)) stream.abort(this.#closedError());
    for (const waiter of this.#waiters) waiter.reject(this.#closedError());
    this.#waiters.clear();
  }

  #closedError(): GodwitError {
    return new GodwitError('GODWIT_INVALID_STATE', `the listener on ${this.#address} is closed`);
  }
}
