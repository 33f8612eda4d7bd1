import { GodwitError } from '@godwit/core';
import type { ByteStream } from '../stream/byte-stream.js';
import { resumeInFairTurn } from '../stream/event-loop-turn.js';
import { MessageReceiver } from './message-receiver.js';

/** The carrier of one stream's messages: a WebSocket, a MessagePort. */
export interface MessageCarrier {
  /**
   * Sends one message, in order. `message` is borrowed until `sent` is called, unless `owned`: then the carrier may keep
   * its `ArrayBuffer`. After `sent(error)` the stream is lost.
   */
  send(message: Uint8Array, owned: boolean, sent: (error?: Error | null) => void): void;
  /** Tells the peer that this side's direction ends; `sent` is called as for `send`. */
  sendEnd(sent: (error?: Error | null) => void): void;
  /** Called when the reader has taken this many bytes of messages, so that others may follow. */
  taken(bytes: number): void;
  /** Called when both directions have ended. May be called twice, and `drop` may still follow. */
  finish(): void;
  /** Drops the stream at once, and tells the peer if possible. Called at most once. */
  drop(reason: GodwitError): void;
}

/** The most bytes in one message. */
export const LARGEST_MESSAGE = 64 * 1024;
/** Chunks of at least this many bytes are messages of their own, by reference; smaller chunks are gathered by a copy. */
const ALONE_BYTES = 16 * 1024;

interface PendingWrite {
  readonly chunks: readonly Uint8Array[];
  chunk: number;
  offset: number;
  /** The number of messages that the carrier is not done with. */
  borrowed: number;
  resolve(): void;
  reject(error: GodwitError): void;
}

/** A byte stream over messages: it cuts writes into messages, limits the bytes in flight, and keeps the order. */
export class MessageStream implements ByteStream {
  readonly peer: string;
  readonly #carrier: MessageCarrier;
  readonly #receiver: MessageReceiver;
  /** Bytes that may still be sent before the carrier grants more. */
  #window: number;
  readonly #writes: PendingWrite[] = [];
  /** Writes that were sent completely, but whose memory is still borrowed. */
  readonly #sent = new Set<PendingWrite>();
  #pumping = false;
  #closing: Promise<void> | undefined;
  #closed: (() => void) | undefined;
  #ending = false;
  #endSent = false;
  #peerEnded = false;
  #failure: GodwitError | undefined;
  #dropped = false;
  #aborted = false;

  constructor(carrier: MessageCarrier, peer: string, windowBytes: number) {
    this.peer = peer;
    this.#carrier = carrier;
    this.#window = windowBytes;
    this.#receiver = new MessageReceiver((bytes) => carrier.taken(bytes));
  }

  /** The number of bytes that have come and were not read yet. */
  get held(): number {
    return this.#receiver.held;
  }

  write(chunks: readonly Uint8Array[]): Promise<void> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    if (this.#closing !== undefined) {
      return Promise.reject(
        new GodwitError('GODWIT_INVALID_STATE', `the stream to ${this.peer} is closed for writing`),
      );
    }
    return new Promise((resolve, reject) => {
      this.#writes.push({
        chunks,
        chunk: 0,
        offset: 0,
        borrowed: 0,
        resolve: () => resumeInFairTurn(resolve),
        reject,
      });
      this.#pump();
    });
  }

  get pendingBytes(): number {
    return this.#receiver.pendingBytes;
  }

  read(into: Uint8Array, wanted = 1): Promise<number> {
    return this.#receiver.read(into, wanted);
  }

  close(): Promise<void> {
    this.#closing ??= new Promise((resolve) => {
      this.#closed = resolve;
      this.#ending = true;
      if (this.#failure !== undefined) resolve();
      else this.#pump();
    });
    return this.#closing;
  }

  abort(reason: GodwitError): void {
    if (this.#aborted) return;
    this.#aborted = true;
    this.#release(reason);
    this.#receiver.abort(reason);
  }

  /** Called by the carrier when a message has come; the stream owns its memory. */
  received(message: Uint8Array): void {
    this.#receiver.push(message);
  }

  /** Called by the carrier when the peer has ended its direction. */
  peerEnded(): void {
    this.#peerEnded = true;
    this.#receiver.end();
    this.#finishIfOver();
  }

  /** Called by the carrier when this many more bytes may be sent. */
  grant(bytes: number): void {
    this.#window += bytes;
    this.#pump();
  }

  /** Called by the carrier when it broke or the peer dropped the stream. Bytes that have come can still be read. */
  lost(error: GodwitError): void {
    if (this.#failure !== undefined || (this.#endSent && this.#peerEnded)) return;
    this.#release(error);
    if (!this.#peerEnded) this.#receiver.fail(error);
  }

  #release(error: GodwitError): void {
    this.#failure = error;
    if (!this.#dropped) {
      this.#dropped = true;
      this.#carrier.drop(error);
    }
    for (const write of this.#writes.splice(0)) write.reject(error);
    for (const write of this.#sent) write.reject(error);
    this.#sent.clear();
    this.#closed?.();
  }

  #pump(): void {
    // `grant` and `sent` may be called while a message is handed over.
    if (this.#pumping) return;
    this.#pumping = true;
    for (;;) {
      const write = this.#writes[0];
      if (write === undefined || this.#failure !== undefined) break;
      const message = this.#window > 0 ? this.#next(write) : undefined;
      if (message === undefined && this.#window <= 0 && !isDone(write)) break;
      if (message !== undefined) this.#send(write, message.bytes, message.owned);
      if (!isDone(write)) continue;
      this.#writes.shift();
      if (write.borrowed === 0) write.resolve();
      else this.#sent.add(write);
    }
    this.#pumping = false;
    if (this.#ending && this.#writes.length === 0) this.#sendEnd();
  }

  #send(write: PendingWrite, message: Uint8Array, owned: boolean): void {
    this.#window -= message.length;
    write.borrowed++;
    this.#carrier.send(message, owned, (error) => {
      if (error) {
        this.lost(
          new GodwitError('GODWIT_LINK_LOST', `the link to ${this.peer} was lost: ${error.message}`, { cause: error }),
        );
        return;
      }
      write.borrowed--;
      if (write.borrowed === 0 && this.#sent.delete(write)) write.resolve();
    });
  }

  /** The next message of a write: a large chunk's own bytes, or several small chunks gathered. */
  #next(write: PendingWrite): { bytes: Uint8Array; owned: boolean } | undefined {
    skipEmpty(write);
    const first = write.chunks[write.chunk];
    if (first === undefined) return undefined;
    const most = Math.min(LARGEST_MESSAGE, this.#window);
    if (first.length - write.offset >= ALONE_BYTES || write.chunk === write.chunks.length - 1) {
      const bytes = first.subarray(write.offset, write.offset + most);
      write.offset += bytes.length;
      skipEmpty(write);
      return { bytes, owned: false };
    }
    let left = 0;
    for (let i = write.chunk; i < write.chunks.length && left < most; i++)
      left += (write.chunks[i] as Uint8Array).length;
    left -= write.offset;
    const gathered = new Uint8Array(Math.min(left, most));
    for (let at = 0; at < gathered.length; ) {
      const part = (write.chunks[write.chunk] as Uint8Array).subarray(
        write.offset,
        write.offset + gathered.length - at,
      );
      gathered.set(part, at);
      at += part.length;
      write.offset += part.length;
      skipEmpty(write);
    }
    return { bytes: gathered, owned: true };
  }

  #sendEnd(): void {
    if (this.#endSent || this.#failure !== undefined) return;
    this.#endSent = true;
    this.#carrier.sendEnd(() => {
      this.#closed?.();
      this.#finishIfOver();
    });
  }

  #finishIfOver(): void {
    if (this.#endSent && this.#peerEnded && !this.#dropped) this.#carrier.finish();
  }
}

function isDone(write: PendingWrite): boolean {
  return write.chunk >= write.chunks.length;
}

/** Moves on to the next byte of a write. */
function skipEmpty(write: PendingWrite): void {
  while (write.chunk < write.chunks.length && write.offset === (write.chunks[write.chunk] as Uint8Array).length) {
    write.chunk++;
    write.offset = 0;
  }
}
