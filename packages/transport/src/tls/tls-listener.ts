import type net from 'node:net';
import type tls from 'node:tls';
import { GodwitError } from '@godwit/core';
import { AcceptQueue } from '../stream/accept-queue.js';
import type { ByteStream, Listener } from '../stream/byte-stream.js';
import { noteCertificates } from './certificate-name.js';
import { tellPlainPeer } from './plain-alert.js';
import { explainHandshake, handshakeMayPass } from './tls-refusal.js';
import { tlsStream } from './tls-stream.js';

/**
 * The most handshakes at a time: connecting costs a peer nothing, and a handshake takes much of this side's processor
 * time.
 */
const MOST_HANDSHAKES = 128;

/**
 * Takes byte streams from a `tls.Server`: only peers that have proven who they are.
 *
 * @example
 * const listener = await tls({ port: 0, ca, cert, key }).listen();
 * console.log(listener.address); // tls://127.0.0.1:41234
 */
export class TlsListener implements Listener {
  readonly #server: tls.Server;
  readonly #onRefused: (error: GodwitError) => void;
  readonly #certificateOf: (secure: tls.TLSSocket) => string | undefined;
  /** TCP sockets in their handshake, by the peer's address and port. */
  readonly #handshakes = new Map<string, net.Socket>();
  #queue = new AcceptQueue('tls');
  #address = '';
  #host = '';
  #port = 0;

  constructor(server: tls.Server, onRefused: (error: GodwitError) => void = () => undefined) {
    this.#server = server;
    this.#onRefused = onRefused;
    this.#certificateOf = noteCertificates(server);
    server.on('connection', (raw: net.Socket) => this.#arrived(raw));
    server.on('secureConnection', (secure) => this.#proven(secure));
    server.on('tlsClientError', (error: NodeJS.ErrnoException, secure) => this.#failed(error, secure));
  }

  get address(): string {
    return this.#address;
  }

  /** The address on which it listens. */
  get host(): string {
    return this.#host;
  }

  /** The port on which it listens. */
  get port(): number {
    return this.#port;
  }

  /** Sets the address and the port that the system chose, once the server listens. */
  listens(address: string, host: string, port: number): void {
    this.#address = address;
    this.#host = host;
    this.#port = port;
    this.#queue = new AcceptQueue(address);
  }

  accept(signal?: AbortSignal): Promise<ByteStream> {
    return this.#queue.shift(signal);
  }

  async close(): Promise<void> {
    this.#queue.close();
    // Only the listening is ended: the 'close' event would wait for streams that stay open.
    this.#server.close();
    for (const raw of this.#handshakes.values()) raw.destroy();
  }

  #arrived(raw: net.Socket): void {
    if (this.#handshakes.size >= MOST_HANDSHAKES) {
      raw.destroy();
      this.#onRefused(
        new GodwitError(
          'GODWIT_LIMIT_EXCEEDED',
          `${this.#address} refused ${nameOf(raw)}: ${MOST_HANDSHAKES} handshakes are under way`,
        ),
      );
      return;
    }
    const name = nameOf(raw);
    this.#handshakes.set(name, raw);
    raw.once('close', () => {
      if (this.#handshakes.get(name) === raw) this.#handshakes.delete(name);
    });
  }

  #proven(secure: tls.TLSSocket): void {
    const name = nameOf(secure);
    const raw = this.#handshakes.get(name);
    this.#handshakes.delete(name);
    secure.on('error', () => undefined);
    // Not before: a peer that leaves during the handshake would be noticed only when that takes too long.
    secure.allowHalfOpen = true;
    // OpenSSL reports this during a read: a write before that read has returned would corrupt its state.
    setImmediate(() => {
      if (raw === undefined || secure.destroyed) secure.destroy();
      else this.#queue.push(tlsStream(secure, raw, name));
    });
  }

  #failed(error: NodeJS.ErrnoException, secure: tls.TLSSocket): void {
    // Node refuses a certificate by closing the connection, and its error says only that it was closed; the reason is
    // in `authorizationError`.
    const verdict = secure.authorizationError as unknown as string | null | undefined;
    const cause = verdict ? Object.assign(new Error(`certificate verification: ${verdict}`), { code: verdict }) : error;
    const certificate = this.#certificateOf(secure);
    const who = `${nameOf(rawOf(secure))}${certificate === undefined ? '' : ` with ${certificate}`}`;
    const message = `${this.#address} refused ${who}: ${explainHandshake(cause, 'listener')}`;
    tellPlainPeer(error, rawOf(secure), 'frames');
    secure.destroy();
    this.#onRefused(new GodwitError('GODWIT_CONNECT_FAILED', message, { cause, retry: handshakeMayPass(cause) }));
  }
}

/** The TCP socket below, which has its peer's address also after it was closed, where this version of Node shows it. */
function rawOf(secure: tls.TLSSocket): net.Socket {
  return (secure as unknown as { _parent?: net.Socket | null })._parent ?? secure;
}

function nameOf(socket: net.Socket): string {
  const host = socket.remoteAddress ?? 'unknown';
  return `tls://${host.includes(':') ? `[${host}]` : host}:${socket.remotePort ?? 0}`;
}
