import net from 'node:net';
import { checkOptions, GodwitError, nonNegative, quoted } from '@godwit/core';
import type { ByteStream, Transport } from './stream/byte-stream.js';
import { connectSocket } from './stream/socket-connect.js';
import { SocketListener } from './stream/socket-listener.js';
import { LONGEST_PATH, listenAtPath } from './stream/unix-path.js';

/** Options of `unix`. */
export interface UnixOptions {
  /** Path of the socket; at most 107 bytes (`sun_path` of unix(7)). */
  readonly path: string;
  /** How long `connect` waits, in milliseconds. Default: 10 000. */
  readonly connectTimeoutMs?: number;
  /**
   * The rights of a listener's socket file, such as `0o600`: the file has them from the moment at which it exists. Connecting requires
   * the right to write. Default: `0o777` without the bits of the process's umask; with the usual umask only the owner may write.
   */
  readonly mode?: number;
}

/**
 * A UNIX stream socket: both VMMs on one host. The rights of the path decide which processes may connect. A listener removes its own
 * socket file when it closes, and no other file that has taken its place; the socket file of a dead process is replaced, that of a
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
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `the rights of a socket file are 0 to 0o777, got ${mode}`);
  }
  return {
    plainSockets: true,
    connect(signal?: AbortSignal): Promise<ByteStream> {
      return connectSocket({ path }, { peer: address, timeoutMs, signal });
    },
    async listen(signal?: AbortSignal): Promise<SocketListener> {
      const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true });
      let remove = (): void => undefined;
      // The listener is made first, since connections may come from the moment at which the path exists.
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
