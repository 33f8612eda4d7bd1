import net from 'node:net';
import { checkOptions, GodwitError, nonNegative, quoted } from '@godwit/core';
import type { ByteStream, Transport } from './stream/byte-stream.js';
import { connectSocket } from './stream/socket-connect.js';
import { SocketListener } from './stream/socket-listener.js';
import { LONGEST_PATH, listenAtPath } from './stream/unix-path.js';

/** The socket of a `unix` transport. */
export interface UnixOptions {
  /** Path of the socket; at most 107 bytes (`sun_path` of unix(7)). */
  readonly path: string;
  /** How long `connect` waits, in milliseconds. Default: 10 000. */
  readonly connectTimeoutMs?: number;
  /**
   * The rights of a listener's socket file, such as `0o600`: it has them from the moment that it is there. To connect takes the right to
   * write. Default: what the process's umask leaves of `0o777`, which is the owner alone for writing under the usual one.
   */
  readonly mode?: number;
}

/**
 * A UNIX stream socket: both VMMs on one host. Who may connect is decided by the rights of the path. A listener removes
 * its socket file when it closes, and nobody else's that has taken its place; a file left by a process that died is replaced, a
 * living one or another kind of file is refused.
 *
 * @example
 * migrate(vm, connectTo(unix({ path: '/run/vm/migration.sock' })));
 */
export function unix(options: UnixOptions): Transport<SocketListener> {
  checkOptions<UnixOptions>('unix', options, { path: true, connectTimeoutMs: true, mode: true });
  const { path, mode } = options;
  if (typeof path !== 'string') {
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `unix needs the path of a socket, got ${quoted(path)}`);
  }
  const timeoutMs = nonNegative('connectTimeoutMs', options.connectTimeoutMs ?? 10_000);
  const address = `unix:${path}`;
  const length = Buffer.byteLength(path);
  if (length === 0 || length > LONGEST_PATH) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `a UNIX socket path has 1 to ${LONGEST_PATH} bytes, "${path}" has ${length}; choose a shorter one`,
    );
  }
  if (mode !== undefined && !(Number.isInteger(mode) && mode >= 0 && mode <= 0o777)) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `the rights of a socket file are a number from 0 to 0o777, got ${quoted(mode)}`,
    );
  }
  return {
    plainSockets: true,
    connect(signal?: AbortSignal): Promise<ByteStream> {
      return connectSocket({ path }, { peer: address, timeoutMs, signal });
    },
    async listen(signal?: AbortSignal): Promise<SocketListener> {
      const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true });
      let remove = (): void => undefined;
      // First: from the moment that the path is there, connections may come.
      const listener = new SocketListener(
        server,
        address,
        () => address,
        () => remove(),
      );
      remove = await listenAtPath(server, path, signal, mode);
      return listener;
    },
  };
}
