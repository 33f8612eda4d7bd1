import net, { type AddressInfo } from 'node:net';
import nodeTls from 'node:tls';
import { checkOptions, GodwitError, nonNegative, quoted } from '@godwit/core';
import { WebSocket } from 'ws';
import type { ByteStream, Transport } from '../stream/byte-stream.js';
import { cancelled } from '../stream/cancellation.js';
import { dial } from '../stream/dial.js';
import { startServer } from '../stream/socket-listener.js';
import { ownCertificateName, peerCertificateName } from '../tls/certificate-name.js';
import { tlsWanted } from '../tls/plain-alert.js';
import { CREDENTIALS, checkCredentials, clientOptions, type TlsCredentials } from '../tls/tls-credentials.js';
import { explainHandshake, handshakeMayPass, refusedCertificate } from '../tls/tls-refusal.js';
import { WebSocketListener } from './web-socket-listener.js';
import { MAXIMUM_MESSAGE, webSocketStream } from './web-socket-stream.js';

/** The address of a `webSocket`, and the peers that it accepts. */
export interface WebSocketOptions {
  /** `ws://host:port/path` or `wss://...`. Instead of it: host, port and path. */
  readonly url?: string;
  /** Default: `127.0.0.1`. */
  readonly host?: string;
  /** With 0 the system chooses when listening; the listener's `address` and `port` have the result. */
  readonly port?: number;
  /** Default: `/`. A request for another path is refused. */
  readonly path?: string;
  /** This side's credentials, certificates or a common key, with which the scheme is `wss`. See `tls`. */
  readonly tls?: TlsCredentials;
  /**
   * Origins of web pages that may connect, `https://vmm.example`. Default: none. A browser lets any page connect to any
   * address that it reaches, and only sends the page's origin.
   */
  readonly origins?: readonly string[];
  /** How long `connect` waits, in milliseconds. Default: 10 000. */
  readonly connectTimeoutMs?: number;
  /** How long a listener waits for a peer's request, in milliseconds. Default: 10 000. */
  readonly handshakeTimeoutMs?: number;
  /** Called with the reason for every peer that a listener refuses. */
  readonly onRefused?: (error: GodwitError) => void;
}

const WEB_SOCKET_OPTIONS: Readonly<Record<keyof WebSocketOptions, true>> = {
  url: true,
  host: true,
  port: true,
  path: true,
  tls: true,
  origins: true,
  connectTimeoutMs: true,
  handshakeTimeoutMs: true,
  onRefused: true,
};

/**
 * WebSocket, for network paths that only let HTTP through, without compression. `ws:` is for trusted networks only; `wss:`
 * with `tls` authenticates both sides. A listener refuses web pages unless `origins` names them.
 *
 * Chunks of 16 KiB and more go to the socket by reference from a listener; a side that connects must mask what it sends
 * (RFC 6455), which costs a copy. Reading copies once.
 *
 * @example
 * const links = await listenOn(webSocket({ port: 8080, path: '/migration' }));
 * migrate(vm, connectTo(webSocket({ url: 'ws://vm-host:8080/migration' })));
 */
export function webSocket(options: WebSocketOptions): Transport<WebSocketListener> {
  checkOptions<WebSocketOptions>('webSocket', options, WEB_SOCKET_OPTIONS);
  const url = urlOf(options);
  const timeoutMs = nonNegative('connectTimeoutMs', options.connectTimeoutMs ?? 10_000);
  const secure = url.protocol === 'wss:';
  if (secure !== (options.tls !== undefined)) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      secure
        ? `${url.href} needs the certificates of this side, or a common key; give them as tls`
        : `${url.href} is not encrypted, but tls is given; use wss:`,
    );
  }
  if (options.tls !== undefined) {
    checkOptions<TlsCredentials>('webSocket: tls', options.tls, CREDENTIALS);
    checkCredentials(options.tls);
  }
  const host = url.hostname.replace(/^\[|\]$/g, '');
  return {
    async connect(signal?: AbortSignal): Promise<ByteStream> {
      const what = `connecting to ${url.href}`;
      const began = performance.now();
      const begin = (address: string) => ({ socket: net.connect({ host: address, port: portOf(url), noDelay: true }) });
      const { socket: raw } = await dial({ host }, begin, { peer: url.href, timeoutMs, signal });
      let theirs: string | undefined;
      const createConnection = (): net.Socket => {
        if (options.tls === undefined) return raw;
        const secured = nodeTls.connect({ ...clientOptions(options.tls, host), socket: raw });
        return secured.prependOnceListener('secure', () => {
          theirs = peerCertificateName(secured);
        });
      };
      const socket = new WebSocket(url, {
        perMessageDeflate: false,
        maxPayload: MAXIMUM_MESSAGE,
        ...({ createConnection } as object),
      });
      let timer: NodeJS.Timeout | undefined;
      let onAbort: (() => void) | undefined;
      try {
        await new Promise<void>((resolve, reject) => {
          // The connection and the steps after it share one time limit.
          const left = Math.max(0, timeoutMs - (performance.now() - began));
          timer = setTimeout(() => reject(noAnswer(url, timeoutMs)), left);
          socket.once('open', resolve);
          socket.once('unexpected-response', (_request, { statusCode, headers }) => {
            const message = `Unexpected server response: ${statusCode}`;
            socket.emit('error', Object.assign(new Error(message), { status: statusCode, upgrade: headers.upgrade }));
          });
          socket.on('error', (error: UpgradeError) => {
            const refused = refusedCertificate(error);
            const name = refused === 'theirs' ? theirs : refused && ownCertificateName(options.tls?.cert);
            const shown = name === undefined ? '' : `${refused === 'ours' ? 'our' : 'its'} ${name}: `;
            const why = explainUpgrade(error, secure);
            const message = `cannot connect to ${url.href}: ${shown}${why}`;
            const retry = upgradeMayPass(error);
            reject(new GodwitError('GODWIT_CONNECT_FAILED', message, { cause: error, retry }));
          });
          if (signal !== undefined) {
            onAbort = () => reject(cancelled(signal, what));
            signal.addEventListener('abort', onAbort, { once: true });
            if (signal.aborted) onAbort();
          }
        });
        return webSocketStream(socket, url.href);
      } catch (error) {
        socket.terminate();
        raw.destroy();
        throw error;
      } finally {
        clearTimeout(timer);
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

/** An error of the request with which a connection becomes a WebSocket. */
interface UpgradeError extends NodeJS.ErrnoException {
  /** The first bytes of an answer that is no HTTP. */
  readonly rawPacket?: Uint8Array;
  /** The status of an answer that is HTTP, and its `upgrade` header. */
  readonly status?: number | undefined;
  readonly upgrade?: string | undefined;
}

/** Explains a failed request, and what can be done. */
function explainUpgrade(error: UpgradeError, secure: boolean): string {
  const wanted = error.status === 426 ? tlsWanted(error.upgrade) : undefined;
  if (wanted !== undefined) {
    const remedy =
      wanted === 'http' ? 'connect with wss: in place of ws:' : 'connect with tls(...), or compare the ports';
    return `the listener speaks TLS, and ws: is plain HTTP (${error.message}); ${remedy}`;
  }
  if (!secure && error.code === 'ECONNRESET') {
    return 'the listener closed the connection instead of answering (ECONNRESET); usually it wants TLS: connect with wss: in place of ws:';
  }
  if (!secure && error.status === 400) {
    return `${error.message}; a port of HTTPS answers so too: connect with wss: in place of ws:, if it is one`;
  }
  if (error.code?.startsWith('HPE_')) {
    const { rawPacket } = error;
    if (!secure && rawPacket?.[0] === TLS_ALERT && rawPacket[1] === TLS_MAJOR_VERSION) {
      return `the listener speaks TLS, and answers with an alert (${error.code}); connect with wss: in place of ws:`;
    }
    const answer = rawPacket?.[0] === FRAME_START ? `; it speaks the frames of ${secure ? 'tls' : 'tcp'}(...)` : '';
    return `what answers there does not speak HTTP (${error.code})${answer}; let it listen with webSocket(...), or compare the ports`;
  }
  // OpenSSL's own code is in the message only, when it fails in the middle of a write.
  const { code = '', message } = error;
  if (NO_TLS.has(code) || (code === 'EPROTO' && message.includes('wrong version number'))) {
    const shown = code === 'EPROTO' ? 'EPROTO: wrong version number' : code;
    return `the listener does not speak TLS (${shown}); connect with ws: or tcp(...), or let it listen with tls`;
  }
  return explainHandshake(error, 'source');
}

const NO_TLS: ReadonlySet<string> = new Set(['ERR_SSL_WRONG_VERSION_NUMBER', 'ERR_SSL_PACKET_LENGTH_TOO_LONG']);

/** The first two bytes of an alert (RFC 8446, sections 5.1 and 6), with which most programs refuse what is not TLS. */
const TLS_ALERT = 0x15;
const TLS_MAJOR_VERSION = 0x03;

/** The first byte of every frame: `listenOn` answers what is no frame with an error frame. */
const FRAME_START = 0xce;

function noAnswer(url: URL, timeoutMs: number): GodwitError {
  const tls = url.protocol === 'ws:' ? ' A port that wants TLS may keep silent: connect with wss:, if it is one.' : '';
  const message = `no answer from ${url.href} within connectTimeoutMs = ${timeoutMs}; does a webSocket(...) listen there?${tls}`;
  return new GodwitError('GODWIT_CONNECT_FAILED', message);
}

/** An HTTP server's answer in the place of a WebSocket is final, unless its status is temporary (RFC 9110: 429, 5xx). */
function upgradeMayPass(error: UpgradeError): boolean {
  if (error.code !== undefined) return handshakeMayPass(error);
  const { status = 0 } = error;
  return status === 429 || status >= 500;
}

function urlOf(options: WebSocketOptions): URL {
  const { host = '127.0.0.1', port, path = '/', tls } = options;
  if (options.url === undefined && !(Number.isInteger(port) && Number(port) >= 0 && Number(port) <= 65535)) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `webSocket needs a url, or a port from 0 to 65535, got ${quoted(port)}`,
    );
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
