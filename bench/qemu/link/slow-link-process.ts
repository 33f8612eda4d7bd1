import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { listenWithSmallBuffer } from './small-buffer.js';

/** The length of the link's queue, as that of a network card: bytes are forwarded this much before their time. Milliseconds. */
const QUEUE_MS = 2;

const toPort = Number(process.argv[2]);
const bytesPerSecond = Number(process.argv[3]);
/** The time, of `performance.now`, at which the bytes of all connections so far will have been sent. */
let busyUntil = 0;

async function carry(from: Socket, to: Socket): Promise<void> {
  // The other direction may continue after this one has ended.
  for await (const bytes of from.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    busyUntil = Math.max(busyUntil, performance.now()) + (bytes.length / bytesPerSecond) * 1000;
    const early = busyUntil - performance.now() - QUEUE_MS;
    if (early > 0) await sleep(early);
    if (!to.write(bytes)) await once(to, 'drain');
  }
  to.end();
}

const listening = listenWithSmallBuffer();
const server = createServer({ allowHalfOpen: true, noDelay: true }, (from) => {
  const to = connect({ host: '127.0.0.1', port: toPort, allowHalfOpen: true, noDelay: true });
  const end = (): void => {
    from.destroy();
    to.destroy();
  };
  from.on('error', end);
  to.on('error', end);
  to.pipe(from);
  carry(from, to).catch(end);
});
server.listen({ fd: listening.fd }, () => process.send?.(listening.port));
process.once('disconnect', () => process.exit());
