// plain-tcp.ts
import { once } from 'node:events';
import net, { type AddressInfo } from 'node:net';
import { GodwitError } from '@godwit/core';
import { AcceptQueue, fromDuplex, type Listener, type Transport } from '@godwit/transport';

const host = '127.0.0.1';

export function plainTcp(port: number): Transport<Listener & { port: number }> {
  return {
    async connect(signal) {
      const socket = net.connect({ host, port, allowHalfOpen: true });
      try {
        await once(socket, 'connect', signal && { signal });
      } catch (cause) {
        socket.destroy();
        const code = signal?.aborted ? 'GODWIT_CANCELLED' : 'GODWIT_CONNECT_FAILED';
        throw new GodwitError(code, `cannot connect to ${host}:${port}; does the destination listen?`, { cause });
      }
      return fromDuplex(socket, `${host}:${port}`);
    },
    async listen() {
      const queue = new AcceptQueue(`${host}:${port}`);
      const server = net.createServer({ allowHalfOpen: true }, (socket) => queue.push(fromDuplex(socket)));
      await once(server.listen(port, host), 'listening');
      const close = async (): Promise<void> => {
        queue.close();
        server.close();
      };
      const bound = (server.address() as AddressInfo).port;
      return { address: `${host}:${bound}`, port: bound, accept: (signal) => queue.shift(signal), close };
    },
  };
}
