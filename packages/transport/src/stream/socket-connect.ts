import net from 'node:net';
import { GodwitError } from '@godwit/core';
import type { ByteStream } from './byte-stream.js';
import { cancelled, throwIfCancelled } from './cancellation.js';
import { DirectReceiver } from './direct-receiver.js';
import { explain } from './socket-listener.js';
import { fromDirectSocket } from './socket-stream.js';

/** Connects a socket that reads straight into the reader's memory. */
export async function connectSocket(
  where: net.TcpSocketConnectOpts | net.IpcSocketConnectOpts,
  peer: string,
  timeoutMs: number,
  signal: AbortSignal | undefined,
): Promise<ByteStream> {
  const what = `connecting to ${peer}`;
  throwIfCancelled(signal, what);
  const receiver = new DirectReceiver();
  const socket = net.connect({ ...where, allowHalfOpen: true, onread: receiver.onread } as net.NetConnectOpts);
  let timer: NodeJS.Timeout | undefined;
  let onAbort: (() => void) | undefined;
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.on('error', (error: NodeJS.ErrnoException) => {
        reject(
          new GodwitError('GODWIT_CONNECT_FAILED', `cannot connect to ${peer}: ${explain(error)}`, { cause: error }),
        );
      });
      timer = setTimeout(() => {
        reject(
          new GodwitError('GODWIT_CONNECT_FAILED', `no answer from ${peer} within connectTimeoutMs = ${timeoutMs}`),
        );
      }, timeoutMs);
      if (signal !== undefined) {
        onAbort = () => reject(cancelled(signal, what));
        signal.addEventListener('abort', onAbort, { once: true });
      }
    });
    return fromDirectSocket(socket, receiver, peer);
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    clearTimeout(timer);
    if (onAbort !== undefined) signal?.removeEventListener('abort', onAbort);
  }
}
