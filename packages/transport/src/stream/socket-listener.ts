import type net from 'node:net';
import { GodwitError } from '@godwit/core';
import { AcceptQueue } from './accept-queue.js';
import type { ByteStream, Listener } from './byte-stream.js';
import { cancelled, throwIfCancelled } from './cancellation.js';
import { adoptSocket } from './socket-stream.js';

/** Takes byte streams from a `net.Server`. */
export class SocketListener implements Listener {
  readonly address: string;
  readonly #server: net.Server;
  readonly #queue: AcceptQueue;
  #closed: Promise<void> | undefined;

  constructor(server: net.Server, address: string, nameOf: (socket: net.Socket) => string) {
    this.address = address;
    this.#server = server;
    this.#queue = new AcceptQueue(address);
    server.on('connection', (socket) => {
      // Until it is adopted: a peer that is gone already is not an uncaught error.
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
      reject(new GodwitError('GODWIT_CONNECT_FAILED', `cannot listen on ${what}: ${explain(error)}`, { cause: error }));
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

/** The error's own message and what can be done about it. */
export function explain(error: NodeJS.ErrnoException): string {
  const hint = error.code === undefined ? undefined : HINTS.get(error.code);
  return hint === undefined ? error.message : `${error.message}: ${hint}`;
}

const HINTS: ReadonlyMap<string, string> = new Map([
  ['ECONNREFUSED', 'nothing listens there; start the destination first and compare the address'],
  ['ENOENT', 'there is no such socket; start the destination first and compare the path'],
  ['EADDRINUSE', 'something listens there already; stop it or choose another address'],
  ['EADDRNOTAVAIL', 'this host has no such address'],
  ['EACCES', 'no permission; check the rights of the path, or take a port of 1024 or more'],
  ['ENOTFOUND', 'the name does not resolve'],
  ['ETIMEDOUT', 'no answer; check the route and the firewalls between the hosts'],
  ['EHOSTUNREACH', 'no route to that host'],
]);
