import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { afterEach, expect, test } from '@jest/globals';
import { type SlowLink, slowLink } from '../qemu/link/slow-link.js';

const BYTES_PER_SECOND = 8e6;
const opened: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of opened.splice(0).reverse()) await close();
});

/** A server that keeps the bytes it receives and answers with one byte at their end. */
async function behindTheLink(): Promise<{ link: SlowLink; heard: Buffer[] }> {
  const heard: Buffer[] = [];
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('data', (bytes) => heard.push(bytes));
    socket.on('end', () => socket.end('!'));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  opened.push(() => new Promise((resolve) => server.close(resolve)));
  const link = await slowLink((server.address() as AddressInfo).port, BYTES_PER_SECOND);
  opened.push(() => link.close());
  return { link, heard };
}

async function sendAndHear(port: number, bytes: Uint8Array): Promise<void> {
  const socket: Socket = connect({ host: '127.0.0.1', port, allowHalfOpen: true });
  socket.end(bytes);
  expect(String((await once(socket, 'data'))[0])).toBe('!');
  await once(socket, 'close');
}

test('a slow link carries every byte in order, at its rate in one direction and without a limit in the other', async () => {
  const { link, heard } = await behindTheLink();
  const bytes = Uint8Array.from({ length: BYTES_PER_SECOND / 4 }, (_, i) => (i * 7) >> 3);
  const started = performance.now();
  await sendAndHear(link.port, bytes);
  // 250 ms of the link, less what its queue holds.
  expect(performance.now() - started).toBeGreaterThan(240);
  expect(Buffer.concat(heard).equals(bytes)).toBe(true);
});

test('the connections of a slow link share its rate', async () => {
  const { link, heard } = await behindTheLink();
  const started = performance.now();
  const bytes = new Uint8Array(BYTES_PER_SECOND / 8);
  await Promise.all([sendAndHear(link.port, bytes), sendAndHear(link.port, bytes)]);
  expect(performance.now() - started).toBeGreaterThan(240);
  expect(Buffer.concat(heard)).toHaveLength(BYTES_PER_SECOND / 4);
});
