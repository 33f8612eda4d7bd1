import { checkOptions, GodwitError, suggestion } from '@godwit/core';
import { type ExecOptions, exec } from '../exec/exec.js';
import { stdio } from '../exec/stdio.js';
import { type WebSocketOptions, webSocket } from '../message/web-socket.js';
import { type FileOptions, file } from '../snapshot/file.js';
import type { Transport } from '../stream/byte-stream.js';
import { type TcpOptions, tcp } from '../tcp.js';
import { type TlsOptions, tls } from '../tls/tls.js';
import { type UnixOptions, unix } from '../unix.js';

/** Options that a URI does not have, by transport. Certificates and keys are never in a URI, since URIs are logged. */
export interface UriOptions {
  readonly tcp?: Omit<TcpOptions, 'host' | 'port'>;
  readonly tls?: Omit<TlsOptions, 'host' | 'port'>;
  readonly unix?: Omit<UnixOptions, 'path'>;
  readonly exec?: Omit<ExecOptions, 'command' | 'args'>;
  readonly file?: Omit<FileOptions, 'path'>;
  /** For `wss:`, certificates, timeouts and `onRefused` are those of `tls` above unless they are given here. */
  readonly webSocket?: Omit<WebSocketOptions, 'url' | 'host' | 'port' | 'path'>;
  /** Options for schemes of your own. */
  readonly [scheme: string]: unknown;
}

/** Makes a transport from the part of a URI after its first colon. */
export type TransportFactory = (rest: string, options: UriOptions, uri: string) => Transport;

const factories = new Map<string, TransportFactory>([
  ['tcp', (rest, options, uri) => tcp({ ...options.tcp, ...hostAndPort(rest, uri) })],
  ['tls', (rest, options, uri) => tls({ ...options.tls, ...hostAndPort(rest, uri) })],
  ['unix', (rest, options) => unix({ ...options.unix, path: rest.replace(/^\/\/(?=\/)/, '') })],
  ['exec', (rest, options) => exec(options.exec === undefined ? rest : shell(rest, options.exec))],
  ['file', (rest, options) => file({ ...options.file, path: rest.replace(/^\/\/(?=\/)/, '') })],
  ['stdio', () => stdio()],
  ['ws', (_rest, options, uri) => webSocket({ ...options.webSocket, url: uri })],
  ['wss', (_rest, options, uri) => webSocket({ ...secured(options.tls), ...options.webSocket, url: uri })],
]);

/**
 * Makes a transport of an address as QEMU writes it: `tcp:host:port`, `tls:host:port`, `unix:/path`, `exec:command`, `file:/path`,
 * `stdio:`, `ws://host:port/path`, `wss://...`, or of a scheme that was registered. `tcp://host:port`, as messages show it, is the same as
 * `tcp:host:port`; IPv6 addresses are in brackets, and an empty host is `127.0.0.1`.
 *
 * Throws `GODWIT_INVALID_ARGUMENT`, whose message says what was expected.
 *
 * @example
 * const transport = transportFromUri('tls:vm-host:4444', { tls: { ca, cert, key } });
 */
export function transportFromUri(uri: string, options: UriOptions = {}): Transport {
  const colon = uri.indexOf(':');
  const scheme = uri.slice(0, Math.max(colon, 0)).toLowerCase();
  const factory = factories.get(scheme);
  const schemes = [...factories.keys()].map((name) => `${name}:`);
  if (factory === undefined) {
    throw invalid(`"${uri}" starts with none of ${schemes.join(', ')}${suggestion(`${scheme}:`, schemes)}`);
  }
  const known = Object.fromEntries([...factories.keys(), 'webSocket'].map((name) => [name, true] as const));
  checkOptions<Record<string, unknown>>('transportFromUri', options, known);
  return factory(uri.slice(colon + 1), options, uri);
}

/**
 * Adds a scheme of your own to `transportFromUri`, for this process. An existing scheme is not replaced: the reader of a configuration must
 * be able to trust `tls:`.
 *
 * @example
 * registerTransport('room', (name) => rooms.get(name) ?? fail(`there is no room ${name}`));
 * transportFromUri('room:a');
 */
export function registerTransport(scheme: string, factory: TransportFactory): void {
  if (!/^[a-z][a-z0-9+.-]*$/.test(scheme)) {
    throw invalid(`a scheme is a lower-case letter, then letters, digits, "+", "." or "-"; got "${scheme}"`);
  }
  if (factories.has(scheme)) throw invalid(`the scheme "${scheme}" exists already; choose another name`);
  factories.set(scheme, factory);
}

function hostAndPort(rest: string, uri: string): { host?: string; port: number } {
  const match = /^(?:\/\/)?(?:\[([^\]]+)\]|([^:[\]/]*)):(\d{1,5})\/?$/.exec(rest);
  if (match === null) {
    const scheme = uri.slice(0, uri.indexOf(':'));
    throw invalid(`expected ${scheme}:host:port, or ${scheme}:[address]:port for IPv6, got "${uri}"`);
  }
  const host = match[1] ?? match[2] ?? '';
  return { ...(host !== '' && { host }), port: Number(match[3]) };
}

/** The `tls` options in the form of a WebSocket's options, whose credentials are in a field of their own. */
function secured(tls: UriOptions['tls']): Omit<WebSocketOptions, 'url' | 'host' | 'port' | 'path'> {
  if (tls === undefined) return {};
  const { connectTimeoutMs, handshakeTimeoutMs, onRefused, ...credentials } = tls;
  return {
    tls: credentials,
    ...(connectTimeoutMs !== undefined && { connectTimeoutMs }),
    ...(handshakeTimeoutMs !== undefined && { handshakeTimeoutMs }),
    ...(onRefused !== undefined && { onRefused }),
  };
}

function shell(command: string, options: Omit<ExecOptions, 'command' | 'args'>): ExecOptions {
  return { ...options, command: '/bin/sh', args: ['-c', command] };
}

function invalid(message: string): GodwitError {
  return new GodwitError('GODWIT_INVALID_ARGUMENT', message);
}
