import type net from 'node:net';
import { GodwitError } from '@godwit/core';
import { AcceptQueue } from './accept-queue.js';
import type { ByteStream, Listener } from './byte-stream.js';
import { cancelled, throwIfCancelled } from './cancellation.js';
import { explain, mayPass } from './connect-failure.js';
import { adoptSocket } from './socket-stream.js';

/** Takes byte streams from a `net.Server`. */
export class SocketListener implements Listener {
  readonly address: string;
  readonly #server: net.Server;
  readonly #queue: AcceptQueue;
  readonly #onClose: () => void;
  #closed: Promise<void> | undefined;

  /** `onClose` is called once, while the server still listens. */
  constructor(
    server: net.Server,
    address: string,
    nameOf: (socket: net.Socket) => string,
    onClose: () => void = () => undefined,
  ) {
    this.address = address;
    this.#server = server;
    this.#onClose = onClose;
    this.#queue = new AcceptQueue(address);
    server.on('connection', (socket) => {
      // Until the socket is adopted, the error of a peer that is already gone must not be an uncaught one.
      socket.on('error', () => undefined);
      if (socket.destroyed) return;
      this.#queue.push(adoptSocket(socket, nameOf(socket)));
    });
  }

  accept(signal?: AbortSignal): Promise<ByteStream> {
    return this.#queue.shift(signal);
  }

  close(): Promise<void> {
    this.#closed ??= new Promise((resolve) => {
      this.#queue.close();
      this.#onClose();
      this.#server.close(() => resolve());
    });
    return this.#closed;
  }
}

/** Starts a server and resolves once it listens. `hint` completes the error message for a given error code. */
export async function startServer(
  server: net.Server,
  where: net.ListenOptions,
  what: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  throwIfCancelled(signal, `listening on ${what}`);
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      const message = `cannot listen on ${what}: ${explain(error)}`;
      reject(new GodwitError('GODWIT_CONNECT_FAILED', message, { cause: error, retry: mayPass(error) }));
    });
    server.listen(where, resolve);
  });
  if (signal?.aborted === true) {
    server.close();
    throw cancelled(signal, `listening on ${what}`);
  }
  server.removeAllListeners('error');
  // Accept errors (EMFILE and the like) concern one connection, which is gone; the listener goes on.
  server.on('error', () => undefined);
}
