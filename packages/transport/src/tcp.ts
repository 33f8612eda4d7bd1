import net from 'node:net';
import { checkOptions, nonNegative } from '@godwit/core';
import type { ByteStream, Transport } from './stream/byte-stream.js';
import { portNumber } from './stream/port-number.js';
import { connectSocket } from './stream/socket-connect.js';
import { SocketListener, startServer } from './stream/socket-listener.js';

/** The address to which `tcp` connects, or at which it listens. */
export interface TcpOptions {
  /** Name or address. Default: `127.0.0.1`; to be reached from other hosts, listen on `0.0.0.0` or `::`. */
  readonly host?: string;
  /** With 0 the system chooses when listening; `TcpListener.port` has the result. */
  readonly port: number;
  /** How long `connect` waits, in milliseconds. Default: 10 000. */
  readonly connectTimeoutMs?: number;
  /** Idle time before the kernel starts to probe whether the peer is alive, in milliseconds. Default: 10 000. */
  readonly keepAliveMs?: number;
}

/** A listener of `tcp`, which has its host and port. */
export interface TcpListener extends SocketListener {
  readonly host: string;
  readonly port: number;
}

/**
 * TCP. Nagle's algorithm is off (switchover is a ping-pong of small frames), keep-alive is on. Nothing is encrypted and
 * no peer is authenticated: any program that reaches the port can read or replace guest memory. Use this transport on a
 * trusted network only.
 *
 * @example
 * const links = await listenOn(tcp({ host: '0.0.0.0', port: 4444 })); // at the destination
 * migrate(vm, connectTo(tcp({ host: 'vm-host', port: 4444 }))); // at the source
 */
export function tcp(options: TcpOptions): Transport<TcpListener> {
  checkOptions<TcpOptions>('tcp', options, { host: true, port: true, connectTimeoutMs: true, keepAliveMs: true });
  const host = options.host ?? '127.0.0.1';
  const port = portNumber(options.port);
  const timeoutMs = nonNegative('connectTimeoutMs', options.connectTimeoutMs ?? 10_000);
  const socketOptions = {
    noDelay: true,
    keepAlive: true,
    keepAliveInitialDelay: nonNegative('keepAliveMs', options.keepAliveMs ?? 10_000),
  };
  return {
    plainSockets: true,
    connect(signal?: AbortSignal): Promise<ByteStream> {
      return connectSocket({ host, port, ...socketOptions }, { peer: address(host, port), timeoutMs, signal });
    },
    async listen(signal?: AbortSignal): Promise<TcpListener> {
      const server = net.createServer({ ...socketOptions, allowHalfOpen: true, pauseOnConnect: true });
      await startServer(server, { host, port }, address(host, port), signal);
      const bound = server.address() as net.AddressInfo;
      const listener = new SocketListener(server, address(bound.address, bound.port), (socket) =>
        address(socket.remoteAddress ?? 'unknown', socket.remotePort ?? 0),
      );
      return Object.assign(listener, { host: bound.address, port: bound.port });
    },
  };
}

function address(host: string, port: number): string {
  return `tcp://${host.includes(':') ? `[${host}]` : host}:${port}`;
}
