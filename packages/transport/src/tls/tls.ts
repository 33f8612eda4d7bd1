import net from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import nodeTls from 'node:tls';
import { checkOptions, GodwitError, nonNegative } from '@godwit/core';
import type { ByteStream, Transport } from '../stream/byte-stream.js';
import { cancelled } from '../stream/cancellation.js';
import { dial } from '../stream/dial.js';
import { portNumber } from '../stream/port-number.js';
import { startServer } from '../stream/socket-listener.js';
import { ownCertificateName, peerCertificateName } from './certificate-name.js';
import { CREDENTIALS, checkCredentials, clientOptions, serverOptions, type TlsCredentials } from './tls-credentials.js';
import { TlsListener } from './tls-listener.js';
import { explainHandshake, handshakeMayPass, refusedCertificate } from './tls-refusal.js';
import { tlsStream } from './tls-stream.js';

export interface TlsOptions extends TlsCredentials {
  /** Name or address. Default: `127.0.0.1`; to be reached from other hosts, listen on `0.0.0.0` or `::`. */
  readonly host?: string;
  /** With 0 the system chooses when listening; `TlsListener.port` has the result. */
  readonly port: number;
  /** How long `connect` waits for the connection and the handshake together, in milliseconds. Default: 10 000. */
  readonly connectTimeoutMs?: number;
  /** How long a listener waits for a peer's handshake, in milliseconds. Default: 10 000. */
  readonly handshakeTimeoutMs?: number;
  /** Idle time before the kernel starts to probe whether the peer is alive, in milliseconds. Default: 10 000. */
  readonly keepAliveMs?: number;
  /** Called with the reason for every peer that a listener refuses: such a peer never reaches `accept`. */
  readonly onRefused?: (error: GodwitError) => void;
}

const TLS_OPTIONS: Readonly<Record<keyof TlsOptions, true>> = {
  ...CREDENTIALS,
  host: true,
  port: true,
  connectTimeoutMs: true,
  handshakeTimeoutMs: true,
  keepAliveMs: true,
  onRefused: true,
};

/**
 * How long a source waits for the listener's answer to its certificate. In TLS 1.3 the source's handshake is over before
 * the listener has looked at that certificate; the first session ticket says that it was accepted. Only a listener of
 * other software that sends no tickets makes a connection wait this long. Milliseconds.
 */
const CONFIRMATION_MS = 1_000;

/**
 * TLS over TCP, 1.3 by default, with both sides authenticated: by certificates that the other's `ca` has signed (the
 * listener's must also be valid for the host to which the source connects), or by a pre-shared key. A peer without the
 * right one is refused in the handshake, before any byte of a migration: `connect` fails with `GODWIT_CONNECT_FAILED`, and
 * a listener calls `onRefused` and goes on.
 *
 * Bytes are copied before they are encrypted, so that the cipher never reads borrowed memory that changes.
 *
 * @example
 * tls({ host: 'vm-host', port: 4444, ca, cert, key }); // each side its own certificate, both signed by `ca`
 * tls({ host: 'vm-host', port: 4444, psk: { identity: 'migration-7', key: secret } }); // or a key that both have
 */
export function tls(options: TlsOptions): Transport<TlsListener> {
  checkOptions<TlsOptions>('tls', options, TLS_OPTIONS);
  const host = options.host ?? '127.0.0.1';
  const port = portNumber(options.port);
  const timeoutMs = nonNegative('connectTimeoutMs', options.connectTimeoutMs ?? 10_000);
  const handshakeTimeoutMs = nonNegative('handshakeTimeoutMs', options.handshakeTimeoutMs ?? 10_000);
  const keepAliveMs = nonNegative('keepAliveMs', options.keepAliveMs ?? 10_000);
  checkCredentials(options);
  const socketOptions = { noDelay: true, keepAlive: true, keepAliveInitialDelay: keepAliveMs };
  const peer = addressOf(host, port);
  return {
    async connect(signal?: AbortSignal): Promise<ByteStream> {
      const began = performance.now();
      const begin = (address: string) => ({
        socket: net.connect({ host: address, port, ...socketOptions, allowHalfOpen: true }),
      });
      const { socket: raw } = await dial({ host }, begin, { peer, timeoutMs, signal });
      let socket: nodeTls.TLSSocket | undefined;
      let theirs: string | undefined;
      const certificate = (refused: 'ours' | 'theirs') =>
        refused === 'theirs' ? theirs : ownCertificateName(options.cert);
      try {
        const left = Math.max(0, timeoutMs - (performance.now() - began));
        await within({ left, of: timeoutMs }, peer, signal, certificate, async (fail) => {
          raw.once('error', fail);
          const secure = nodeTls.connect({ ...clientOptions(options, host), socket: raw });
          socket = secure;
          secure.prependOnceListener('secure', () => {
            theirs = peerCertificateName(secure);
          });
          secure.on('error', fail);
          secure.once('close', () =>
            fail(Object.assign(new Error('closed during the handshake'), { code: 'ECONNRESET' })),
          );
          await once(secure, 'secureConnect');
          if (secure.getProtocol() === 'TLSv1.3') await confirmed(secure, fail);
          // OpenSSL reports this during a read: a write before that read has returned would corrupt its state.
          await nextTurn();
        });
      } catch (error) {
        socket?.destroy();
        raw.destroy();
        throw error;
      }
      return tlsStream(socket as unknown as nodeTls.TLSSocket, raw, peer);
    },
    async listen(signal?: AbortSignal): Promise<TlsListener> {
      let server: nodeTls.Server;
      try {
        server = nodeTls.createServer({
          ...serverOptions(options),
          ...socketOptions,
          allowHalfOpen: true,
          pauseOnConnect: true,
          handshakeTimeout: handshakeTimeoutMs,
        });
      } catch (error) {
        throw unusable(error, `listening on ${peer}`);
      }
      const listener = new TlsListener(server, options.onRefused);
      await startServer(server, { host, port }, peer, signal);
      const bound = server.address() as net.AddressInfo;
      listener.listens(addressOf(bound.address, bound.port), bound.address, bound.port);
      return listener;
    },
  };

  /** Runs the steps of a handshake; the first of error, time and signal ends them. */
  async function within(
    { left, of: timeoutMs }: { readonly left: number; readonly of: number },
    what: string,
    signal: AbortSignal | undefined,
    certificate: (refused: 'ours' | 'theirs') => string | undefined,
    steps: (fail: (error: Error) => void) => Promise<void>,
  ): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    let onAbort: (() => void) | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        const fail = (error: NodeJS.ErrnoException): void => {
          const refused = refusedCertificate(error);
          const name = refused && certificate(refused);
          const shown = name === undefined ? '' : `${refused === 'ours' ? 'our' : 'its'} ${name}: `;
          const message = `cannot connect to ${what}: ${shown}${explainHandshake(error, 'source')}`;
          reject(new GodwitError('GODWIT_CONNECT_FAILED', message, { cause: error, retry: handshakeMayPass(error) }));
        };
        timer = setTimeout(() => {
          const message = `no TLS answer from ${what} within connectTimeoutMs = ${timeoutMs}; does a tls(...) listen there?`;
          reject(new GodwitError('GODWIT_CONNECT_FAILED', message));
        }, left);
        if (signal !== undefined) {
          onAbort = () => reject(cancelled(signal, `connecting to ${what}`));
          signal.addEventListener('abort', onAbort, { once: true });
        }
        steps(fail).then(resolve, (error) => reject(unusable(error, `connecting to ${what}`)));
      });
    } finally {
      clearTimeout(timer);
      if (onAbort !== undefined) signal?.removeEventListener('abort', onAbort);
    }
  }
}

/**
 * Waits for the listener's answer: a ticket, a byte, or no refusal within `CONFIRMATION_MS`. A refusal is left to `fail`.
 */
async function confirmed(secure: nodeTls.TLSSocket, fail: (error: Error) => void): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const refused = (): void => {
    const message = 'the listener closed the connection instead of accepting our certificate';
    fail(Object.assign(new Error(message), { code: 'ERR_SSL_SSLV3_ALERT_BAD_CERTIFICATE' }));
  };
  secure.once('end', refused);
  secure.prependOnceListener('close', refused);
  await new Promise<void>((resolve) => {
    secure.once('session', () => resolve());
    timer = setTimeout(resolve, CONFIRMATION_MS);
    // Without a reader, the end of the stream would go unnoticed.
    secure.read(0);
  });
  clearTimeout(timer);
  secure.removeListener('end', refused);
  secure.removeListener('close', refused);
}

function once(emitter: NodeJS.EventEmitter, event: string): Promise<void> {
  return new Promise((resolve) => {
    emitter.once(event, () => resolve());
  });
}

/** Node throws when it cannot read a certificate or key. */
function unusable(error: unknown, what: string): GodwitError {
  const reason = error instanceof Error ? error.message : String(error);
  const message = `${what}: the certificates or keys cannot be used: ${reason}`;
  return new GodwitError('GODWIT_INVALID_ARGUMENT', message, { cause: error });
}

function addressOf(host: string, port: number): string {
  return `tls://${host.includes(':') ? `[${host}]` : host}:${port}`;
}
