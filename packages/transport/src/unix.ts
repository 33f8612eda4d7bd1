import { lstat, unlink } from 'node:fs/promises';
import net from 'node:net';
import { GodwitError } from '@godwit/core';
import type { ByteStream, Transport } from './stream/byte-stream.js';
import { connectSocket } from './stream/socket-connect.js';
import { SocketListener, startServer } from './stream/socket-listener.js';

export interface UnixOptions {
  /** Path of the socket; at most 107 bytes (`sun_path` of unix(7)). */
  readonly path: string;
  /** How long `connect` waits, in milliseconds. Default: 10 000. */
  readonly connectTimeoutMs?: number;
}

const LONGEST_PATH = 107;

/**
 * A UNIX stream socket: both VMMs on one host. Who may connect is decided by the rights of the path. A listener removes
 * its socket file when it closes; a file left by a process that died is replaced, a living one or another kind of file
 * is refused.
 */
export function unix(options: UnixOptions): Transport<SocketListener> {
  const { path } = options;
  const address = `unix:${path}`;
  const length = Buffer.byteLength(path);
  if (length === 0 || length > LONGEST_PATH) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `a UNIX socket path has 1 to ${LONGEST_PATH} bytes, "${path}" has ${length}; choose a shorter one`,
    );
  }
  return {
    connect(signal?: AbortSignal): Promise<ByteStream> {
      return connectSocket({ path }, { peer: address, timeoutMs: options.connectTimeoutMs ?? 10_000, signal });
    },
    async listen(signal?: AbortSignal): Promise<SocketListener> {
      await removeDeadSocket(path);
      const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true });
      await startServer(server, { path }, address, signal);
      return new SocketListener(server, address, () => address);
    },
  };
}

async function removeDeadSocket(path: string): Promise<void> {
  const found = await lstat(path).catch(() => undefined);
  if (found === undefined) return;
  if (!found.isSocket()) {
    throw new GodwitError(
      'GODWIT_CONNECT_FAILED',
      `cannot listen on unix:${path}: there is a file of another kind; remove it or choose another path`,
    );
  }
  if (await isAlive(path)) {
    throw new GodwitError(
      'GODWIT_CONNECT_FAILED',
      `cannot listen on unix:${path}: a living process listens there; stop it or choose another path`,
    );
  }
  await unlink(path).catch(() => undefined);
}

/** Only a refused connection proves that nobody listens. */
function isAlive(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = net.connect({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', (error: NodeJS.ErrnoException) => {
      resolve(error.code !== 'ECONNREFUSED' && error.code !== 'ENOENT');
    });
  });
}
