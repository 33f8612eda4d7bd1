import { GodwitError } from '@godwit/core';
import type { ByteStream } from './byte-stream.js';
import { cancelled, throwIfCancelled } from './cancellation.js';

/** Streams that nobody has accepted yet are dropped beyond this many: connecting costs a peer nothing. */
const MOST_WAITING = 128;

interface Waiter {
  resolve(stream: ByteStream): void;
  reject(error: GodwitError): void;
}

/**
 * Brings incoming streams and calls of `accept` together, whichever comes first: the better half of a `Listener`. At most
 * 128 streams wait; further ones are dropped.
 */
export class AcceptQueue {
  readonly #address: string;
  readonly #streams: ByteStream[] = [];
  readonly #waiters = new Set<Waiter>();
  #closed = false;

  constructor(address: string) {
    this.#address = address;
  }

  /** A stream has come; it is dropped when the queue is full or closed. */
  push(stream: ByteStream): void {
    for (const waiter of this.#waiters) {
      this.#waiters.delete(waiter);
      waiter.resolve(stream);
      return;
    }
    if (!this.#closed && this.#streams.length < MOST_WAITING) this.#streams.push(stream);
    else stream.abort(new GodwitError('GODWIT_LIMIT_EXCEEDED', `${this.#address} takes no more streams now`));
  }

  /** The next stream, as `Listener.accept` promises it. */
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

  /** Drops what waits, and fails every `shift` from now on. */
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
