import net from 'node:net';
import type { ByteStream } from './byte-stream.js';
import { type Destination, type DialOptions, dial } from './dial.js';
import { DirectReceiver } from './direct-receiver.js';
import { fromDirectSocket } from './socket-stream.js';

/** Connects a socket that reads straight into the reader's memory; `options` are those of `net.connect`. */
export async function connectSocket(
  where: Destination & Partial<net.TcpSocketConnectOpts>,
  dialOptions: DialOptions,
): Promise<ByteStream> {
  const { socket, receiver } = await dial(
    where,
    (address) => {
      const receiver = new DirectReceiver();
      const one = 'path' in where ? { path: address } : { ...where, host: address };
      const options = { ...one, allowHalfOpen: true, onread: receiver.onread };
      return { socket: net.connect(options as net.NetConnectOpts), receiver };
    },
    dialOptions,
  );
  return fromDirectSocket(socket, receiver, dialOptions.peer);
}
