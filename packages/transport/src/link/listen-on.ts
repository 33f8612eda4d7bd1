import {
  type FrameStream,
  GodwitError,
  type HelloFrame,
  type IncomingLink,
  type LinkListener,
  type ReceivedFrame,
} from '@godwit/core';
import { type FrameStreamOptions, frameStream } from '../framing/frame-stream.js';
import type { ByteStream, Listener, Transport } from '../stream/byte-stream.js';
import { cancelled, throwIfCancelled } from '../stream/cancellation.js';
import { makesLinks } from './link-transport.js';
import { PageChannelPool, type PendingStream } from './page-channel-pool.js';
import { PeekedFrameStream } from './peeked-frame-stream.js';
import { refuse } from './refuse.js';

export interface ListenOptions extends FrameStreamOptions {
  /**
   * How long a new stream has to say who it is, and a page channel to be claimed by its migration, in milliseconds.
   * Default: 10 000.
   */
  readonly handshakeTimeoutMs?: number;
  /**
   * Streams that have not said who they are, wait to be accepted, or wait for their migration; further ones are refused.
   * Each holds at most 16 KiB and one header. Default: 128, of which one migration may need 65.
   */
  readonly maximumPending?: number;
  /**
   * Hears of every peer that was refused and why, `peer` being its name (`tcp://192.0.2.1:50312`); what it throws is
   * ignored. Peers that left by themselves, and those that the end of the listener drops, are not refused.
   */
  readonly onRefused?: (error: GodwitError, peer: string) => void;
}

/** A `LinkListener`, where it listens, and the transport's own listener (the port that the system chose, say). */
export type ListeningLinks<L extends Listener> = LinkListener & { readonly address: string; readonly listener: L };

/**
 * The destination's side: sorts incoming streams by their first frame. A `hello` makes a link for `accept`, an `attach`
 * joins the migration that it names. Whoever is silent, speaks something else or attaches to nothing is told why, if
 * possible, and dropped; the listener serves on.
 */
export async function listenOn<L extends Listener>(
  transport: Transport<L>,
  options: ListenOptions = {},
): Promise<ListeningLinks<L>> {
  // Its listener is no more than an address.
  if (makesLinks(transport)) return (await transport.links.listen()) as ListeningLinks<Listener> as ListeningLinks<L>;
  const listener = await transport.listen();
  const links = new IncomingLinks(listener, options);
  void links.serve();
  return {
    address: listener.address,
    listener,
    accept: (signal) => links.accept(signal),
    close: () => links.close(),
  };
}

class IncomingLinks {
  readonly #listener: Listener;
  readonly #options: ListenOptions;
  readonly #handshakeTimeoutMs: number;
  readonly #maximumPending: number;
  readonly #pool: PageChannelPool;
  readonly #pending = new Set<FrameStream>();
  readonly #links: IncomingLink[] = [];
  readonly #waiters = new Set<{ resolve(link: IncomingLink): void; reject(error: GodwitError): void }>();
  #closed: GodwitError | undefined;

  constructor(listener: Listener, options: ListenOptions) {
    this.#listener = listener;
    this.#options = options;
    this.#handshakeTimeoutMs = options.handshakeTimeoutMs ?? 10_000;
    this.#maximumPending = options.maximumPending ?? 128;
    this.#pool = new PageChannelPool(this.#handshakeTimeoutMs, (pending, error) => this.#refuse(pending, error));
  }

  async serve(): Promise<void> {
    try {
      for (;;) this.#greet(await this.#listener.accept());
    } catch (error) {
      await this.#stop(GodwitError.wrap(error, 'GODWIT_LINK_LOST', `listening on ${this.#listener.address} failed`));
    }
  }

  async accept(signal: AbortSignal): Promise<IncomingLink> {
    const what = `accepting on ${this.#listener.address}`;
    throwIfCancelled(signal, what);
    const first = this.#links.shift();
    if (first !== undefined) return first;
    if (this.#closed !== undefined) throw this.#closed;
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        this.#waiters.delete(waiter);
        reject(cancelled(signal, what));
      };
      const waiter = {
        resolve: (link: IncomingLink): void => {
          signal.removeEventListener('abort', onAbort);
          resolve(link);
        },
        reject: (error: GodwitError): void => {
          signal.removeEventListener('abort', onAbort);
          reject(error);
        },
      };
      this.#waiters.add(waiter);
      signal.addEventListener('abort', onAbort, { once: true });
    });
  }

  close(): Promise<void> {
    return this.#stop(new GodwitError('GODWIT_INVALID_STATE', `the listener on ${this.#listener.address} is closed`));
  }

  async #stop(error: GodwitError): Promise<void> {
    if (this.#closed === undefined) {
      this.#closed = error;
      for (const waiter of this.#waiters) waiter.reject(error);
      this.#waiters.clear();
      for (const link of this.#links.splice(0)) refuse(link.control, error);
      for (const stream of this.#pending) stream.abort(error);
      this.#pool.close(error);
    }
    await this.#listener.close();
  }

  #greet(carrier: ByteStream): void {
    const stream = frameStream(carrier, this.#options);
    const pending = { stream, peer: carrier.peer };
    if (this.#pending.size + this.#links.length + this.#pool.size >= this.#maximumPending) {
      this.#refuse(
        pending,
        new GodwitError('GODWIT_LIMIT_EXCEEDED', `${this.#maximumPending} streams wait here already; try again later`),
      );
      return;
    }
    this.#pending.add(stream);
    const late = (): void => {
      if (!this.#pending.delete(stream)) return;
      const message = `no first frame came within handshakeTimeoutMs = ${this.#handshakeTimeoutMs}`;
      this.#refuse(pending, new GodwitError('GODWIT_TIMEOUT', message));
    };
    // After an event loop that was held up, timers come before the bytes that have been waiting: those first.
    const timer = setTimeout(() => setImmediate(late), this.#handshakeTimeoutMs);
    stream
      .read()
      .then(
        (received) => {
          if (this.#pending.has(stream)) this.#sort(carrier, stream, received);
        },
        (error: unknown) => {
          if (!this.#pending.has(stream)) return;
          const reason = GodwitError.wrap(error, 'GODWIT_LINK_LOST', 'the first frame');
          // One whose first frame was damaged may try again, which it does not where it is told a reason.
          if (reason.code === 'GODWIT_LINK_LOST') stream.abort(reason);
          else this.#refuse(pending, reason);
        },
      )
      .finally(() => {
        clearTimeout(timer);
        this.#pending.delete(stream);
      });
  }

  #sort(carrier: ByteStream, stream: FrameStream, received: ReceivedFrame | null): void {
    if (this.#closed !== undefined || received === null) {
      void stream.close();
      return;
    }
    const { frame } = received;
    if (frame.type === 'attach') this.#pool.add(frame, { stream, peer: carrier.peer });
    else if (frame.type === 'hello') this.#deliver(this.#link(carrier, stream, frame, received));
    else {
      const error = new GodwitError('GODWIT_PROTOCOL', `a stream starts with hello or attach, got ${frame.type}`);
      this.#refuse({ stream, peer: carrier.peer }, error);
    }
  }

  /** Tells the peer why, and the operator. */
  #refuse({ stream, peer }: PendingStream, error: GodwitError): void {
    refuse(stream, error);
    if (this.#closed !== undefined || error.code === 'GODWIT_LINK_LOST') return;
    try {
      this.#options.onRefused?.(error, peer);
    } catch {
      // A listener that tells must not be brought down by whoever it tells.
    }
  }

  #link(carrier: ByteStream, stream: FrameStream, hello: HelloFrame, received: ReceivedFrame): IncomingLink {
    const { connection } = hello;
    this.#pool.announce({ migrationId: hello.migrationId, connection }, hello.pageChannels);
    return {
      control: new PeekedFrameStream(stream, Promise.resolve(received)),
      peer: carrier.peer,
      pageChannels: (migrationId, count, signal) => this.#pool.claim({ migrationId, connection }, count, signal),
    };
  }

  #deliver(link: IncomingLink): void {
    for (const waiter of this.#waiters) {
      this.#waiters.delete(waiter);
      waiter.resolve(link);
      return;
    }
    this.#links.push(link);
  }
}
