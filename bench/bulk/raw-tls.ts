import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import tls, { type TLSSocket } from 'node:tls';

/** The keys of the reference for TLS, which uses Node's own sockets and discards the bytes on arrival. */
export interface TlsPems {
  readonly authority: string;
  readonly cert: string;
  readonly key: string;
}

/** Bytes of one `write`: larger ones would be encrypted at once too. */
const PIECE_BYTES = 256 * 1024;

const optionsOf = ({ authority, cert, key }: TlsPems) => ({ ca: authority, cert, key, minVersion: 'TLSv1.3' as const });

/** Listens for one peer. `ms` resolves with the milliseconds from its first byte to its last. */
export async function receiveRawTls(pems: TlsPems, byteLength: number): Promise<{ port: number; ms: Promise<number> }> {
  const server = tls.createServer({ ...optionsOf(pems), requestCert: true });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const ms = (async () => {
    const [socket] = (await once(server, 'secureConnection')) as [TLSSocket];
    let received = 0;
    let start = 0;
    await new Promise<void>((resolve, reject) => {
      socket.on('error', reject);
      socket.on('data', (bytes: Buffer) => {
        if (received === 0) start = performance.now();
        received += bytes.length;
        if (received === byteLength) resolve();
      });
    });
    const taken = performance.now() - start;
    socket.end(Buffer.from([1]));
    server.close();
    return taken;
  })();
  return { port: (server.address() as AddressInfo).port, ms };
}

/** Sends the windows of a guest's memory, and waits for the receiver's byte. */
export async function sendRawTls(pems: TlsPems, port: number, windows: Iterable<Uint8Array>): Promise<void> {
  const socket = tls.connect({ ...optionsOf(pems), host: '127.0.0.1', port });
  await once(socket, 'secureConnect');
  const answered = once(socket, 'data');
  for (const window of windows) {
    for (let at = 0; at < window.length; at += PIECE_BYTES) {
      if (!socket.write(window.subarray(at, at + PIECE_BYTES))) await once(socket, 'drain');
    }
  }
  await answered;
  socket.destroy();
}
