import type { GodwitError } from '@godwit/core';
import { PendingRead, type Receiver } from '../stream/receiver.js';

/** Reads a carrier that brings whole messages: one copy, from the message into the memory of the read. */
export class MessageReceiver implements Receiver {
  readonly #taken: (bytes: number) => void;
  readonly #messages: Uint8Array[] = [];
  /** The number of bytes of the first message that were already read. */
  #offset = 0;
  #held = 0;
  #pending: PendingRead | undefined;
  #ended = false;
  #error: GodwitError | undefined;

  /** `taken` is called with the number of bytes that a read has taken: the carrier may bring as many more. */
  constructor(taken: (bytes: number) => void) {
    this.#taken = taken;
  }

  /** The number of bytes that have come and were not read yet. */
  get held(): number {
    return this.#held;
  }

  /** Takes over the memory of `message`. */
  push(message: Uint8Array): void {
    if (message.length === 0 || this.#error !== undefined) return;
    this.#messages.push(message);
    this.#held += message.length;
    this.#fill();
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
    this.#error ??= error;
    const pending = this.#pending;
    this.#pending = undefined;
    pending?.reject(error);
  }

  abort(error: GodwitError): void {
    this.#ended = false;
    this.#messages.length = 0;
    this.#held = this.#offset = 0;
    this.#error = undefined;
    this.fail(error);
  }

  #fill(): void {
    const pending = this.#pending;
    if (pending === undefined) return;
    let taken = 0;
    while (pending.missing > 0) {
      const message = this.#messages[0];
      if (message === undefined) break;
      const count = pending.take(this.#offset === 0 ? message : message.subarray(this.#offset));
      taken += count;
      this.#offset += count;
      if (this.#offset < message.length) break;
      this.#messages.shift();
      this.#offset = 0;
    }
    this.#held -= taken;
    if (pending.satisfied || (this.#ended && this.#held === 0)) {
      this.#pending = undefined;
      pending.resolve(pending.filled);
    }
    if (taken > 0) this.#taken(taken);
  }
}
