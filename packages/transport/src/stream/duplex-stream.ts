import type { Duplex } from 'node:stream';
import { GodwitError } from '@godwit/core';
import type { ByteStream, DetachedDescriptor } from './byte-stream.js';
import { ChunkReceiver } from './chunk-receiver.js';
import { resumeInFairTurn } from './event-loop-turn.js';
import type { Receiver } from './receiver.js';

/** A byte stream over a Node `Duplex`, which reads through a `Receiver`. */
export class DuplexStream implements ByteStream {
  readonly peer: string;
  readonly #duplex: Duplex;
  readonly #receiver: Receiver;
  readonly #drop: () => void;
  readonly #descriptor: () => number | undefined;
  /** The `reject` functions of the writes that Node still holds. */
  readonly #writing = new Set<(error: GodwitError) => void>();
  #closing: Promise<void> | undefined;
  #failure: GodwitError | undefined;
  #peerEnded = false;
  #aborted = false;

  /**
   * `drop` destroys the carrier in a way that the peer can distinguish from a clean end, where the carrier allows it.
   * `descriptor` returns the carrier's file descriptor, where it is a plain socket.
   */
  constructor(
    duplex: Duplex,
    receiver: Receiver,
    peer: string,
    drop: () => void = () => duplex.destroy(),
    descriptor: () => number | undefined = () => undefined,
  ) {
    this.#duplex = duplex;
    this.#receiver = receiver;
    this.peer = peer;
    this.#drop = drop;
    this.#descriptor = descriptor;
    duplex.on('error', (error: Error) => {
      this.#fail(
        new GodwitError('GODWIT_LINK_LOST', `the link to ${peer} was lost: ${error.message}`, { cause: error }),
      );
    });
    duplex.on('end', () => {
      this.#peerEnded = true;
      receiver.end();
    });
    duplex.on('close', () => {
      this.#fail(new GodwitError('GODWIT_LINK_LOST', `the link to ${peer} was closed underneath`));
    });
    if (duplex.destroyed) this.#fail(new GodwitError('GODWIT_LINK_LOST', `the link to ${peer} is closed already`));
  }

  write(chunks: readonly Uint8Array[]): Promise<void> {
    if (this.#closing !== undefined && !this.#aborted) {
      return Promise.reject(
        new GodwitError('GODWIT_INVALID_STATE', `the stream to ${this.peer} is closed for writing`),
      );
    }
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    let last = chunks.length - 1;
    while (last >= 0 && (chunks[last] as Uint8Array).length === 0) last--;
    if (last < 0) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const duplex = this.#duplex;
      this.#writing.add(reject);
      // Corked, all chunks go to the kernel in one writev, by reference.
      duplex.cork();
      for (let i = 0; i < last; i++) {
        const chunk = chunks[i] as Uint8Array;
        if (chunk.length > 0) duplex.write(chunk);
      }
      // Node writes in order: when the last chunk is done, so are all.
      duplex.write(chunks[last] as Uint8Array, (error) => {
        // A failure is reported by the 'error' event, with the carrier's own words.
        if (error) return;
        this.#writing.delete(reject);
        resumeInFairTurn(resolve);
      });
      duplex.uncork();
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
      if (this.#failure !== undefined || this.#duplex.destroyed) resolve();
      else {
        this.#duplex.once('close', resolve);
        this.#duplex.end(resolve);
      }
    });
    return this.#closing;
  }

  abort(reason: GodwitError): void {
    if (this.#aborted) return;
    this.#aborted = true;
    this.#release(reason);
    this.#receiver.abort(reason);
  }

  detach(duplicate: (fd: number) => number): DetachedDescriptor | undefined {
    if (this.#failure !== undefined) throw this.#failure;
    const receiver = this.#receiver;
    const fd = this.#descriptor();
    if (fd === undefined || receiver.detach === undefined) return undefined;
    if (this.#closing !== undefined || this.#writing.size > 0 || this.#peerEnded) {
      throw new GodwitError('GODWIT_INVALID_STATE', `the stream to ${this.peer} is in use, or has ended`);
    }
    const own = duplicate(fd);
    const unread = receiver.detach();
    this.#aborted = true;
    this.#failure = new GodwitError('GODWIT_INVALID_STATE', `the stream to ${this.peer} was given away`);
    // This closes Node's descriptor; the other one keeps the connection open.
    this.#duplex.destroy();
    return { fd: own, unread };
  }

  #fail(error: GodwitError): void {
    if (this.#aborted) return;
    this.#release(error);
    // For a stream that ended cleanly, reads go on to return the end.
    if (!this.#peerEnded) this.#receiver.fail(this.#failure ?? error);
  }

  #release(error: GodwitError): void {
    if (this.#aborted || this.#failure === undefined) this.#failure = error;
    // Destroying closes the descriptor synchronously; only then are the borrowed chunks given back.
    if (!this.#duplex.destroyed) this.#drop();
    // Destroying may report the close at once: the first failure is the reason.
    const failure = this.#failure as GodwitError;
    for (const reject of this.#writing) reject(failure);
    this.#writing.clear();
  }
}

/**
 * Makes a byte stream of any Node `Duplex` that carries bytes: a TLS socket, a child's pipes (`Duplex.from`), an SSH channel.
 * No other code may read or write it from then on. Half-close needs `allowHalfOpen` (Node's default, except for `net` and
 * `tls`, which must be told).
 *
 * @example
 * const stream = fromDuplex(net.connect({ host, port, allowHalfOpen: true }), `${host}:${port}`);
 */
export function fromDuplex(duplex: Duplex, peer = 'duplex'): ByteStream {
  return new DuplexStream(duplex, new ChunkReceiver(duplex), peer);
}
