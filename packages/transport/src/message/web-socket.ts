import type { AddressInfo } from 'node:net';
import { GodwitError } from '@godwit/core';
import { WebSocket } from 'ws';
import type { ByteStream, Transport } from '../stream/byte-stream.js';
import { cancelled, throwIfCancelled } from '../stream/cancellation.js';
import { startServer } from '../stream/socket-listener.js';
import { checkCredentials, clientOptions, type TlsCredentials } from '../tls/tls-credentials.js';
import { explainHandshake, handshakeMayPass } from '../tls/tls-refusal.js';
import { WebSocketListener } from './web-socket-listener.js';
import { MAXIMUM_MESSAGE, webSocketStream } from './web-socket-stream.js';

/** Where a `webSocket` connects to or listens, and whom it takes. */
export interface WebSocketOptions {
  /** `ws://host:port/path` or `wss://...`. Instead of it: host, port and path. */
  readonly url?: string;
  /** Default: `127.0.0.1`. */
  readonly host?: string;
  /** 0 lets the system choose when listening; the listener's `address` and `port` tell. */
  readonly port?: number;
  /** Default: `/`. A request for another path is refused. */
  readonly path?: string;
  /** Both sides' certificates, or their common key: makes it `wss`. See `tls`. */
  readonly tls?: TlsCredentials;
  /**
   * Origins of web pages that may connect, `https://vmm.example`. Default: none. A browser lets any page connect to any
   * address that it reaches, and only says which page it is.
   */
  readonly origins?: readonly string[];
  /** How long `connect` waits, in milliseconds. Default: 10 000. */
  readonly connectTimeoutMs?: number;
  /** How long a listener waits for a peer's request, in milliseconds. Default: 10 000. */
  readonly handshakeTimeoutMs?: number;
  /** Told of every peer that a listener refuses, and why. */
  readonly onRefused?: (error: GodwitError) => void;
}

/** How long each address of a name has, milliseconds. */
const ADDRESS_MS = 2_500;

/**
 * WebSocket, for paths that only let HTTP through. Not compressed. `ws:` is for trusted networks only; `wss:` with `tls`
 * authenticates both sides. A listener refuses web pages unless `origins` names them.
 *
 * Chunks of 16 KiB and more go to the socket by reference from a listener; a side that connects must mask what it sends
 * (RFC 6455), which costs a copy. Reading copies once.
 *
 * @example
 * const links = await listenOn(webSocket({ port: 8080, path: '/migration' }));
 * migrate(vm, connectTo(webSocket({ url: 'ws://vm-host:8080/migration' })));
 */
export function webSocket(options: WebSocketOptions): Transport<WebSocketListener> {
  const url = urlOf(options);
  const secure = url.protocol === 'wss:';
  if (secure !== (options.tls !== undefined)) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      secure
        ? `${url.href} needs the certificates of this side, or a common key; give them as tls`
        : `${url.href} is not encrypted, but tls is given; use wss:`,
    );
  }
  if (options.tls !== undefined) checkCredentials(options.tls);
  const host = url.hostname.replace(/^\[|\]$/g, '');
  return {
    async connect(signal?: AbortSignal): Promise<ByteStream> {
      const what = `connecting to ${url.href}`;
      throwIfCancelled(signal, what);
      const socket = new WebSocket(url, {
        perMessageDeflate: false,
        maxPayload: MAXIMUM_MESSAGE,
        handshakeTimeout: options.connectTimeoutMs ?? 10_000,
        // Node drops each address of a name but the last after this time, for the next one: 250 ms unless told otherwise.
        ...({ autoSelectFamilyAttemptTimeout: ADDRESS_MS } as object),
        ...(options.tls && clientOptions(options.tls, host)),
      });
      let onAbort: (() => void) | undefined;
      try {
        await new Promise<void>((resolve, reject) => {
          socket.once('open', resolve);
          socket.on('error', (error: NodeJS.ErrnoException) => {
            const message = `cannot connect to ${url.href}: ${explainHandshake(error, 'source')}`;
            const retry = upgradeMayPass(error);
            reject(new GodwitError('GODWIT_CONNECT_FAILED', message, { cause: error, retry }));
          });
          if (signal !== undefined) {
            onAbort = () => reject(cancelled(signal, what));
            signal.addEventListener('abort', onAbort, { once: true });
          }
        });
        return webSocketStream(socket, url.href);
      } catch (error) {
        socket.terminate();
        throw error;
      } finally {
        if (onAbort !== undefined) signal?.removeEventListener('abort', onAbort);
      }
    },
    async listen(signal?: AbortSignal): Promise<WebSocketListener> {
      const listener = new WebSocketListener(url.pathname, options);
      await startServer(listener.server, { host, port: options.port ?? portOf(url) }, url.href, signal);
      const bound = listener.server.address() as AddressInfo;
      const own = bound.address.includes(':') ? `[${bound.address}]` : bound.address;
      listener.listens(`${url.protocol}//${own}:${bound.port}${url.pathname}`, bound.port);
      return listener;
    },
  };
}

/** An HTTP server's answer in the place of a WebSocket is final, unless it says that it cannot now (RFC 9110: 429, 5xx). */
function upgradeMayPass(error: NodeJS.ErrnoException): boolean {
  if (error.code !== undefined) return handshakeMayPass(error);
  const status = Number(/^Unexpected server response: (\d+)/.exec(error.message)?.[1]);
  return status === 429 || status >= 500 || error.message.endsWith('timed out');
}

function urlOf(options: WebSocketOptions): URL {
  const { host = '127.0.0.1', port, path = '/', tls } = options;
  if (options.url === undefined && !(Number.isInteger(port) && Number(port) >= 0 && Number(port) <= 65535)) {
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `webSocket needs a url, or a port from 0 to 65535, got ${port}`);
  }
  const name = host.includes(':') ? `[${host}]` : host;
  const text = options.url ?? `${tls === undefined ? 'ws' : 'wss'}://${name}:${port}${path}`;
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !/^wss?:$/.test(url.protocol)) {
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `expected ws://host:port/path or wss://..., got "${text}"`);
  }
  return url;
}

function portOf(url: URL): number {
  return url.port !== '' ? Number(url.port) : url.protocol === 'wss:' ? 443 : 80;
}
