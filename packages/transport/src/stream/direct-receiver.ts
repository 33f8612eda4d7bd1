import type { GodwitError } from '@godwit/core';
import { PendingRead, type Receiver } from './receiver.js';

/**
 * The size of the landing buffer, for bytes that arrive while no read is pending. Node asks for the buffer of the next
 * read at the end of the last one, when the reader has not asked again yet: every chain of direct reads thus starts
 * with one small read into the landing buffer. 16 KiB keep that copy at a few percent, and in the L1 cache.
 */
const LANDING_BYTES = 16 * 1024;

/**
 * The most bytes that one `read(2)` takes. libuv calls it up to 32 times before it goes back to the event loop, so 256
 * KiB bound a turn to 8 MiB (2-3 ms); larger reads were not faster.
 */
const LARGEST_READ = 256 * 1024;

/** The methods with which a `net.Socket` is made to read. */
interface ReadableSocket {
  resume(): unknown;
}

/**
 * Reads a `net.Socket` directly into the reader's memory, through its `onread` option: the kernel copies into guest
 * memory, and there is no second copy.
 */
export class DirectReceiver implements Receiver {
  readonly #landing = new Uint8Array(LANDING_BYTES);
  #landed = 0;
  #taken = 0;
  #pending: PendingRead | undefined;
  #ended = false;
  #error: GodwitError | undefined;
  #socket: ReadableSocket | undefined;

  /** The socket's `onread` option. */
  readonly onread = {
    buffer: (): Uint8Array => this.#nextBuffer(),
    callback: (count: number, buffer: Uint8Array): boolean => this.#arrived(count, buffer),
  };

  attach(socket: ReadableSocket): void {
    this.#socket = socket;
    if (this.#landed === this.#taken) socket.resume();
  }

  get pendingBytes(): number {
    return this.#pending?.filled ?? 0;
  }

  async read(into: Uint8Array, wanted: number): Promise<number> {
    PendingRead.check(into, this.#pending);
    const pending = new PendingRead(into, wanted);
    this.#takeLanded(pending);
    if (pending.satisfied) {
      // By reading ahead into the landing buffer a lost peer is noticed while no read is pending.
      if (this.#landed === this.#taken) this.#socket?.resume();
      return pending.filled;
    }
    if (this.#ended || (this.#error !== undefined && pending.filled > 0)) return pending.filled;
    if (this.#error !== undefined) throw this.#error;
    this.#pending = pending;
    this.#socket?.resume();
    return pending.promise;
  }

  end(): void {
    this.#ended = true;
    this.#settle();
  }

  fail(error: GodwitError): void {
    this.#error = error;
    const pending = this.#pending;
    this.#pending = undefined;
    pending?.reject(error);
  }

  abort(error: GodwitError): void {
    this.#ended = false;
    this.#landed = this.#taken = 0;
    this.fail(error);
  }

  detach(): Uint8Array {
    const pending = this.#pending;
    this.#pending = undefined;
    const filled = pending?.into.subarray(0, pending.filled) ?? new Uint8Array();
    const landed = this.#landing.subarray(this.#taken, this.#landed);
    const unread = new Uint8Array(filled.length + landed.length);
    unread.set(filled);
    unread.set(landed, filled.length);
    return unread;
  }

  #takeLanded(pending: PendingRead): void {
    if (this.#taken === this.#landed) return;
    this.#taken += pending.take(this.#landing.subarray(this.#taken, this.#landed));
    if (this.#taken === this.#landed) this.#taken = this.#landed = 0;
  }

  #settle(): void {
    const pending = this.#pending;
    this.#pending = undefined;
    pending?.resolve(pending.filled);
  }

  #nextBuffer(): Uint8Array {
    const pending = this.#pending;
    if (pending === undefined || pending.missing < LANDING_BYTES) return this.#landing;
    return pending.into.subarray(pending.filled, pending.filled + Math.min(pending.missing, LARGEST_READ));
  }

  #arrived(count: number, buffer: Uint8Array): boolean {
    const pending = this.#pending;
    if (buffer === this.#landing) {
      this.#landed = count;
      this.#taken = 0;
      if (pending !== undefined) this.#takeLanded(pending);
    } else if (pending !== undefined) {
      pending.filled += count;
    }
    if (pending?.satisfied === true) this.#settle();
    // Reading goes on while the landing buffer is free: false stops it until `resume`.
    return this.#landed === this.#taken;
  }
}
