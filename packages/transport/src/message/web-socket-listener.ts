import { createServer, type IncomingMessage, type Server } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { TLSSocket, Server as TlsServer } from 'node:tls';
import { GodwitError } from '@godwit/core';
import { WebSocketServer } from 'ws';
import { AcceptQueue } from '../stream/accept-queue.js';
import type { ByteStream, Listener } from '../stream/byte-stream.js';
import { noteCertificates } from '../tls/certificate-name.js';
import { tellPlainPeer } from '../tls/plain-alert.js';
import { serverOptions, type TlsCredentials } from '../tls/tls-credentials.js';
import { explainHandshake, handshakeMayPass } from '../tls/tls-refusal.js';
import { MAXIMUM_MESSAGE, webSocketStream } from './web-socket-stream.js';

/** The settings of a WebSocket listener beside its address. */
export interface WebSocketListening {
  readonly tls?: TlsCredentials;
  readonly origins?: readonly string[];
  readonly handshakeTimeoutMs?: number;
  readonly onRefused?: (error: GodwitError) => void;
}

/** The most connections that have not become a WebSocket yet; further ones are dropped. */
const MOST_REQUESTS = 128;

/**
 * Takes byte streams from an HTTP server whose requests become WebSockets.
 *
 * @example
 * const listener = await webSocket({ port: 0, path: '/migration' }).listen();
 * console.log(listener.address); // ws://127.0.0.1:41234/migration
 */
export class WebSocketListener implements Listener {
  /** The HTTP server; it serves nothing but WebSockets at one path. */
  readonly server: Server;
  readonly #path: string;
  readonly #options: WebSocketListening;
  readonly #sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false, maxPayload: MAXIMUM_MESSAGE });
  /** TCP sockets that are no WebSockets yet, by the peer's address and port. */
  readonly #requests = new Map<string, Socket>();
  #queue = new AcceptQueue('ws');
  #address = '';
  #port = 0;

  constructor(path: string, options: WebSocketListening) {
    this.#path = path;
    this.#options = options;
    const timeoutMs = options.handshakeTimeoutMs ?? 10_000;
    const http = { headersTimeout: timeoutMs, requestTimeout: timeoutMs, connectionsCheckingInterval: timeoutMs / 2 };
    this.server =
      options.tls === undefined
        ? createServer(http)
        : createSecureServer({ ...serverOptions(options.tls), ...http, handshakeTimeout: timeoutMs });
    this.server.on('connection', (socket: Socket) => this.#arrived(socket));
    this.server.on('upgrade', (request, socket, head) => this.#upgrade(request, socket, head));
    this.server.on('request', (request, response) => {
      this.#refused(request.socket, 'it sent a plain HTTP request; connect with webSocket(...)');
      response.writeHead(426, { connection: 'close', upgrade: 'websocket' });
      response.end('This port is for live migration over WebSocket.\n');
    });
    const certificateOf = noteCertificates(this.server as unknown as TlsServer);
    this.server.on('tlsClientError', (error: NodeJS.ErrnoException, socket: TLSSocket) => {
      const verdict = socket.authorizationError as unknown as string | null | undefined;
      const cause = verdict
        ? Object.assign(new Error(`certificate verification: ${verdict}`), { code: verdict })
        : error;
      const certificate = certificateOf(socket);
      const shown = certificate === undefined ? '' : `its ${certificate}: `;
      const why = NO_TLS.has(cause.code ?? '') ? `${NO_TLS.get(cause.code ?? '')} (${cause.code})` : undefined;
      tellPlainPeer(error, rawOf(socket), 'http');
      this.#refused(socket, `${shown}${why ?? explainHandshake(cause, 'listener')}`, cause);
      socket.destroy();
    });
    this.server.on('clientError', (error: RequestError, socket: Duplex) => {
      // A failed handshake comes here too, after `tlsClientError` has told it.
      if (socket.destroyed) return;
      const why = explainRequest(error, options.handshakeTimeoutMs ?? 10_000);
      const status = error.code === LATE ? '408 Request Timeout' : '400 Bad Request';
      if (why === undefined) socket.destroy();
      else this.#deny(socket, status, why, error);
    });
  }

  get address(): string {
    return this.#address;
  }

  /** The port on which it listens. */
  get port(): number {
    return this.#port;
  }

  /** Sets the address and the port that the system chose, once the server listens. */
  listens(address: string, port: number): void {
    this.#address = address;
    this.#port = port;
    this.#queue = new AcceptQueue(address);
  }

  accept(signal?: AbortSignal): Promise<ByteStream> {
    return this.#queue.shift(signal);
  }

  async close(): Promise<void> {
    this.#queue.close();
    // Only the listening is ended: the 'close' event would wait for streams that stay open.
    this.server.close();
    for (const socket of this.#requests.values()) socket.destroy();
  }

  #arrived(socket: Socket): void {
    if (this.#requests.size >= MOST_REQUESTS) {
      this.#refused(socket, `${MOST_REQUESTS} connections wait here already`);
      socket.destroy();
      return;
    }
    const name = nameOf(socket);
    this.#requests.set(name, socket);
    socket.once('close', () => {
      if (this.#requests.get(name) === socket) this.#requests.delete(name);
    });
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const path = (request.url ?? '').replace(/\?.*$/, '');
    const { origin } = request.headers;
    if (path !== this.#path) this.#deny(socket, '404 Not Found', `it asked for ${path} and not for ${this.#path}`);
    else if (origin !== undefined && !(this.#options.origins ?? []).includes(origin)) {
      this.#deny(socket, '403 Forbidden', `it is a web page of ${origin}, which origins does not name`);
    } else {
      this.#sockets.handleUpgrade(request, socket, head, (opened) => {
        const name = nameOf(request.socket);
        this.#requests.delete(name);
        this.#queue.push(webSocketStream(opened, `${this.#options.tls === undefined ? 'ws' : 'wss'}://${name}`));
      });
    }
  }

  #deny(socket: Duplex, status: string, why: string, cause?: Error): void {
    this.#refused(socket, why, cause);
    socket.once('error', () => undefined);
    socket.end(`HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`, () => socket.destroy());
  }

  #refused(socket: Socket | Duplex, why: string, cause?: NodeJS.ErrnoException): void {
    const who = 'remoteAddress' in socket && socket.remoteAddress !== undefined ? nameOf(socket) : undefined;
    this.#options.onRefused?.(
      new GodwitError(
        'GODWIT_CONNECT_FAILED',
        `${this.#address} refused ${who ?? 'a peer'}: ${why}`,
        cause && { cause, retry: handshakeMayPass(cause) },
      ),
    );
  }
}

/** An error of Node's parser of requests. */
interface RequestError extends NodeJS.ErrnoException {
  readonly rawPacket?: Uint8Array;
}

const LATE = 'ERR_HTTP_REQUEST_TIMEOUT';

/** Why what has come is no request; `undefined` where the peer only went away. */
function explainRequest({ code = '', message, rawPacket }: RequestError, timeoutMs: number): string | undefined {
  if (code === LATE) return `it sent no whole request within handshakeTimeoutMs = ${timeoutMs}`;
  if (!code.startsWith('HPE_')) return undefined;
  const encrypted = rawPacket?.[0] === 0x16 && rawPacket[1] === 0x03;
  return encrypted
    ? `it speaks TLS, and this port does not; connect with ws: in place of wss:, or give the listener tls (${code})`
    : `it does not speak HTTP; connect with webSocket(...), not with tcp(...) or tls(...) (${code}: ${message})`;
}

const NO_TLS: ReadonlyMap<string, string> = new Map([
  ['ERR_SSL_WRONG_VERSION_NUMBER', 'it does not speak TLS; connect with wss:, not with ws: or tcp(...)'],
  ['ERR_SSL_HTTP_REQUEST', 'it speaks HTTP and not TLS; connect with wss: in place of ws:'],
]);

/** The TCP socket below. */
function rawOf(secure: TLSSocket): Socket {
  return (secure as unknown as { _parent?: Socket | null })._parent ?? secure;
}

function nameOf({ remoteAddress = 'unknown', remotePort = 0 }: Socket): string {
  return `${remoteAddress.includes(':') ? `[${remoteAddress}]` : remoteAddress}:${remotePort}`;
}
