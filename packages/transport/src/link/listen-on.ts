import {
  type AttachFrame,
  checkOptions,
  type FrameStream,
  GodwitError,
  HANDSHAKE_TIMEOUT_MS,
  type HelloFrame,
  type IncomingLink,
  type LinkListener,
  nonNegative,
  type ReceivedFrame,
} from '@godwit/core';
import { type FrameStreamOptions, frameStream } from '../framing/frame-stream.js';
import type { ByteStream, Listener, Transport } from '../stream/byte-stream.js';
import { cancelled, throwIfCancelled } from '../stream/cancellation.js';
import { WatchedStream } from '../stream/watched-stream.js';
import type { Announcement } from './announcement.js';
import { FRAME_STREAM_OPTIONS } from './connect-to.js';
import { ControlStream } from './control-stream.js';
import { makesLinks } from './link-transport.js';
import { PageChannelPool, superseded } from './page-channel-pool.js';
import type { ConnectionName, PendingStream } from './pending-stream.js';
import { refuse } from './refuse.js';

/** Options of `listenOn`. */
export interface ListenOptions extends FrameStreamOptions {
  /**
   * How long a new stream may take to send its first frame, and how long a page channel may wait for the hello that announces
   * it, in milliseconds. Once announced, a page channel stays as long as the control stream of its hello: `receive` and
   * `migrate` limit the time until the migration begins. Default: `HANDSHAKE_TIMEOUT_MS` (30 000), as for these two.
   */
  readonly handshakeTimeoutMs?: number;
  /**
   * The most streams that have not sent their first frame; further ones are refused, and may try again. Each takes at most 32
   * KiB and one header. A source connects up to 65 streams at a time, all of which may be new at the same moment when the
   * event loop was blocked. Default: 512.
   */
  readonly maximumPending?: number;
  /**
   * Called for every peer that was refused, with the reason and the peer's name (`tcp://192.0.2.1:50312`); exceptions are
   * ignored. Peers that left by themselves, and those that are dropped with the listener or their link, do not count as
   * refused.
   */
  readonly onRefused?: (error: GodwitError, peer: string) => void;
}

/** Links that wait to be accepted; further ones are refused, and may try again. */
const MOST_LINKS = 64;

/** The largest `attach` that is accepted: a larger one would have made its stream's buffer grow for good. */
const LARGEST_ATTACH = 16 * 1024;

interface WaitingLink {
  readonly name: ConnectionName;
  readonly link: IncomingLink;
  readonly control: FrameStream;
}

/** A stream that was accepted, with the carrier that `stream` reads from. */
interface NewStream extends PendingStream {
  readonly carrier: WatchedStream;
}

/**
 * A `LinkListener`, its address, and the transport's own listener (which has the port that the system chose, for example).
 */
export type ListeningLinks<L extends Listener> = LinkListener & { readonly address: string; readonly listener: L };

/**
 * The destination's side: sorts incoming streams by their first frame. A `hello` makes a link for `accept`, an `attach` joins
 * the migration that it names. A peer that is silent, sends something else or attaches to no migration is told why, if
 * possible, and dropped; the listener goes on.
 *
 * @example
 * const links = await listenOn(tcp({ host: '0.0.0.0', port: 4444 }));
 * const { vm } = await receive(links, { prepare }).result;
 * await links.close();
 */
export async function listenOn<L extends Listener>(
  transport: Transport<L>,
  options: ListenOptions = {},
): Promise<ListeningLinks<L>> {
  checkOptions<ListenOptions>('listenOn', options, {
    ...FRAME_STREAM_OPTIONS,
    handshakeTimeoutMs: true,
    maximumPending: true,
    onRefused: true,
  });
  // The `listener` of such a transport has only an address.
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
  /** Links that were not accepted yet. */
  readonly #links: WaitingLink[] = [];
  readonly #waiters = new Set<{ resolve(link: IncomingLink): void; reject(error: GodwitError): void }>();
  #closed: GodwitError | undefined;

  constructor(listener: Listener, options: ListenOptions) {
    this.#listener = listener;
    this.#options = options;
    this.#handshakeTimeoutMs = nonNegative('handshakeTimeoutMs', options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS);
    this.#maximumPending = nonNegative('maximumPending', options.maximumPending ?? 512);
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
    if (first !== undefined) return first.link;
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
      for (const { link } of this.#links.splice(0)) refuse(link.control, error);
      for (const stream of this.#pending) stream.abort(error);
      this.#pool.close(error);
    }
    await this.#listener.close();
  }

  #greet(accepted: ByteStream): void {
    const carrier = new WatchedStream(accepted);
    const stream = frameStream(carrier, this.#options);
    const pending: NewStream = { stream, carrier, peer: accepted.peer };
    if (this.#pending.size >= this.#maximumPending) {
      const message = `${this.#maximumPending} streams wait here already; try again later`;
      this.#refuse(pending, new GodwitError('GODWIT_LIMIT_EXCEEDED', message, { retry: true }));
      return;
    }
    this.#pending.add(stream);
    const late = (): void => {
      if (!this.#pending.delete(stream)) return;
      const message = `no first frame came within handshakeTimeoutMs = ${this.#handshakeTimeoutMs}`;
      this.#refuse(pending, new GodwitError('GODWIT_TIMEOUT', message));
    };
    // After the event loop was blocked, timers fire before waiting bytes are read: `setImmediate` lets the bytes come first.
    const timer = setTimeout(() => setImmediate(late), this.#handshakeTimeoutMs);
    stream
      .read()
      .then(
        (received) => {
          if (this.#pending.delete(stream)) this.#sort(pending, received);
        },
        (error: unknown) => {
          if (!this.#pending.delete(stream)) return;
          const reason = GodwitError.wrap(error, 'GODWIT_LINK_LOST', 'the first frame');
          // A peer whose first frame was damaged may try again, which it would not do if it were told a reason.
          if (reason.code === 'GODWIT_LINK_LOST') stream.abort(reason);
          else this.#refuse(pending, reason);
        },
      )
      .finally(() => clearTimeout(timer));
  }

  #sort(pending: NewStream, received: ReceivedFrame | null): void {
    if (this.#closed !== undefined || received === null) {
      void pending.stream.close();
      return;
    }
    const { frame } = received;
    if (frame.type === 'attach') this.#attach(pending, frame);
    else if (frame.type === 'hello') this.#link(pending, frame, received);
    else {
      const error = new GodwitError('GODWIT_PROTOCOL', `a stream starts with hello or attach, got ${frame.type}`);
      this.#refuse(pending, error);
    }
  }

  #attach(pending: NewStream, attach: AttachFrame): void {
    const { stream, peer, carrier } = pending;
    if (stream.bytesRead > LARGEST_ATTACH) {
      const message = `an attach frame has at most ${LARGEST_ATTACH} bytes`;
      this.#refuse(pending, new GodwitError('GODWIT_LIMIT_EXCEEDED', message));
      return;
    }
    this.#pool.add(attach, { stream, peer, left: carrier.watch() });
  }

  #link(pending: NewStream, hello: HelloFrame, received: ReceivedFrame): void {
    const { stream, peer, carrier } = pending;
    const { migrationId, connection } = hello;
    let announcement: Announcement;
    try {
      announcement = this.#pool.announce(hello);
    } catch (error) {
      this.#refuse(pending, GodwitError.wrap(error, 'GODWIT_INTERNAL', 'the hello'));
      return;
    }
    const control = new ControlStream(stream, received, (reason) => announcement.end(reason));
    const link: IncomingLink = {
      control,
      peer,
      pageChannels: (_migrationId, count, signal) => announcement.claim(count, signal),
    };
    void carrier.watch().then((left) => {
      announcement.end(left);
      const at = this.#links.findIndex((waiting) => waiting.link === link);
      if (at === -1) return;
      this.#links.splice(at, 1);
      void control.close();
    });
    this.#deliver({ name: { migrationId, connection }, link, control });
  }

  /** Tells the peer the reason, and calls `onRefused`. */
  #refuse({ stream, peer }: PendingStream, error: GodwitError): void {
    refuse(stream, error);
    if (this.#closed !== undefined || error.code === 'GODWIT_LINK_LOST') return;
    try {
      this.#options.onRefused?.(error, peer);
    } catch {
      // An exception of the embedder's callback must not end the listener.
    }
  }

  /** Hands the link to a waiting `accept`, or keeps it. */
  #deliver(waiting: WaitingLink): void {
    this.#supersede(waiting.name);
    for (const waiter of this.#waiters) {
      this.#waiters.delete(waiter);
      waiter.resolve(waiting.link);
      return;
    }
    if (this.#links.length >= MOST_LINKS) {
      const message = `${MOST_LINKS} links wait here already; try again later`;
      const { control, link } = waiting;
      const error = new GodwitError('GODWIT_LIMIT_EXCEEDED', message, { retry: true });
      this.#refuse({ stream: control, peer: link.peer }, error);
      return;
    }
    this.#links.push(waiting);
  }

  /** Drops a link that was not accepted yet when a later one of its migration comes. */
  #supersede({ migrationId, connection }: ConnectionName): void {
    for (let at = this.#links.length - 1; at >= 0; at--) {
      const { name, link } = this.#links[at] as WaitingLink;
      if (name.migrationId !== migrationId || name.connection >= connection) continue;
      this.#links.splice(at, 1);
      refuse(link.control, superseded(name, connection));
    }
  }
}
