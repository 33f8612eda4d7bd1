import net from 'node:net';
import type { ByteStream } from './byte-stream.js';
import { ChunkReceiver } from './chunk-receiver.js';
import { DirectReceiver } from './direct-receiver.js';
import { DuplexStream } from './duplex-stream.js';
import type { Receiver } from './receiver.js';

/** Makes a byte stream of a connected socket that was made with `receiver.onread`. */
export function fromDirectSocket(socket: net.Socket, receiver: DirectReceiver, peer: string): ByteStream {
  receiver.attach(socket);
  return socketStream(socket, receiver, peer);
}

/**
 * Makes a byte stream of a socket that a server has accepted (with `pauseOnConnect`, so that nothing is read yet).
 *
 * `net.connect` takes an `onread` option, but a server has no way to give one to the sockets it accepts. So the handle
 * moves to a new socket which has it (`_handle` and the `handle` option are what Node's own cluster module uses). In a
 * Node version that lacks either, the accepted socket itself is read, at the cost of one copy.
 */
export function adoptSocket(accepted: net.Socket, peer: string): ByteStream {
  const owner = accepted as unknown as { _handle: { useUserBuffer?: unknown } | null };
  const handle = owner._handle;
  if (typeof handle?.useUserBuffer !== 'function') return socketStream(accepted, new ChunkReceiver(accepted), peer);
  const receiver = new DirectReceiver();
  owner._handle = null;
  accepted.destroy();
  const options = { handle, onread: receiver.onread, allowHalfOpen: true };
  return fromDirectSocket(new net.Socket(options as net.SocketConstructorOpts), receiver, peer);
}

function socketStream(socket: net.Socket, receiver: Receiver, peer: string): ByteStream {
  // A reset shows the peer that this is no clean end. UNIX sockets have no reset.
  const isTcp = socket.remoteAddress !== undefined;
  const drop = (): void => {
    // While libuv shuts the socket down it refuses a reset (EINVAL), and Node then leaves the handle open. By then all
    // bytes were taken, so that the clean end that the peer sees is a true one.
    const shuttingDown = socket.writableEnded && socket.writableLength === 0 && !socket.writableFinished;
    if (isTcp && !shuttingDown) socket.resetAndDestroy();
    else socket.destroy();
  };
  return new DuplexStream(socket, receiver, peer, drop, () => descriptorOf(socket));
}

/**
 * The socket's descriptor. The property is undocumented, but Node has had it since its first versions; the function
 * returns `undefined` where it is missing.
 */
function descriptorOf(socket: net.Socket): number | undefined {
  const fd = (socket as unknown as { _handle: { fd?: unknown } | null })._handle?.fd;
  return typeof fd === 'number' && Number.isInteger(fd) && fd >= 0 ? fd : undefined;
}
