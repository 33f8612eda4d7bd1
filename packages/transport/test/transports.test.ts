import { mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Duplex } from 'node:stream';
import { GodwitError } from '@godwit/core';
import { fromDuplex, memory, memoryPair, type TcpListener, tcp, unix } from '@godwit/transport';
import { transportSuite } from '@godwit/transport/testing';
import { afterAll, describe, expect, jest, test } from '@jest/globals';

jest.setTimeout(30_000);

const MiB = 2 ** 20;
const runner = { describe, test };

// Linux lets a socket buffer grow to 4 MiB for sending and 6 for receiving (net.ipv4.tcp_wmem, tcp_rmem).
transportSuite('tcp', runner, {
  listen: () => tcp({ port: 0 }).listen(),
  connect: (listener, signal) => tcp({ port: (listener as TcpListener).port }).connect(signal),
  tellsAbort: true,
  mostHeld: 32 * MiB,
});

const directory = await mkdtemp(join(tmpdir(), 'godwit-'));
let sockets = 0;

transportSuite('unix', runner, {
  listen: () => unix({ path: join(directory, `${sockets++}.sock`) }).listen(),
  connect: (listener, signal) => unix({ path: listener.address.slice('unix:'.length) }).connect(signal),
  tellsAbort: false,
  mostHeld: 4 * MiB,
});

const memories = new Map<string, ReturnType<typeof memory>>();

transportSuite('memory', runner, {
  async listen() {
    const transport = memory();
    const listener = await transport.listen();
    memories.set(listener.address, transport);
    return listener;
  },
  connect: async (listener, signal) => (memories.get(listener.address) as ReturnType<typeof memory>).connect(signal),
  tellsAbort: true,
  mostHeld: 1 * MiB,
});

// A Node Duplex that knows nothing of onread: what fromDuplex must be able to carry.
transportSuite('any Duplex', runner, {
  listen: () => tcp({ port: 0 }).listen(),
  async connect(listener, signal) {
    const port = (listener as TcpListener).port;
    if (signal?.aborted === true) throw new GodwitError('GODWIT_CANCELLED', 'cancelled');
    const socket = net.connect({ host: '127.0.0.1', port, allowHalfOpen: true });
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', (error) =>
        reject(new GodwitError('GODWIT_CONNECT_FAILED', error.message, { cause: error })),
      );
    });
    return fromDuplex(socket);
  },
  tellsAbort: true,
  mostHeld: 32 * MiB,
  capabilities: { shortConnections: 100 },
});

afterAll(() => rm(directory, { recursive: true }));

describe('connecting', () => {
  test('says what to do when nobody listens', async () => {
    const listener = await tcp({ port: 0 }).listen();
    await listener.close();
    const failed = tcp({ port: listener.port }).connect();
    await expect(failed).rejects.toMatchObject({
      code: 'GODWIT_CONNECT_FAILED',
      message: expect.stringMatching(/ECONNREFUSED.*start the destination first/),
      cause: { code: 'ECONNREFUSED' },
    });
  });

  test('says what to do when the port is taken, and refuses no ports', async () => {
    const listener = await tcp({ port: 0 }).listen();
    await expect(tcp({ port: listener.port }).listen()).rejects.toMatchObject({
      code: 'GODWIT_CONNECT_FAILED',
      message: expect.stringMatching(/EADDRINUSE.*choose another address/),
    });
    await listener.close();
    expect(() => tcp({ port: 70_000 })).toThrow(/from 0 to 65535/);
  });

  test('memory needs a listener first, and takes one only', async () => {
    const transport = memory();
    await expect(transport.connect()).rejects.toMatchObject({ code: 'GODWIT_CONNECT_FAILED' });
    const listener = await transport.listen();
    await expect(transport.listen()).rejects.toMatchObject({ code: 'GODWIT_CONNECT_FAILED' });
    await listener.close();
    await (await transport.listen()).close();
  });
});

describe('fromDuplex', () => {
  test('reports a stream that does not carry bytes', async () => {
    const objects = new Duplex({ objectMode: true, read() {}, write: (_chunk, _encoding, done) => done() });
    const stream = fromDuplex(objects);
    objects.push({ not: 'bytes' });
    await expect(stream.read(new Uint8Array(1))).rejects.toMatchObject({ code: 'GODWIT_INVALID_ARGUMENT' });
  });

  test('reports the error of the stream as a lost link', async () => {
    const duplex = new Duplex({ read() {}, write: (_chunk, _encoding, done) => done(new Error('the cable broke')) });
    const stream = fromDuplex(duplex, 'cable');
    const reading = stream.read(new Uint8Array(1));
    reading.catch(() => undefined);
    await expect(stream.write([new Uint8Array(1)])).rejects.toMatchObject({
      code: 'GODWIT_LINK_LOST',
      message: 'the link to cable was lost: the cable broke',
    });
    await expect(reading).rejects.toMatchObject({ code: 'GODWIT_LINK_LOST' });
  });
});

test('writes that are taken at once do not starve the event loop', async () => {
  const [near, far] = memoryPair();
  let turns = 0;
  const timer = setInterval(() => turns++, 1);
  const room = new Uint8Array(64 * 1024);
  const reading = (async () => {
    while ((await far.read(room)) > 0);
  })();
  const chunk = new Uint8Array(16 * 1024);
  // Where they starve it, no number of them lets the timer run.
  for (let writes = 0; turns <= 5 && writes < 1_000_000; writes++) await near.write([chunk]);
  await near.close();
  await reading;
  clearInterval(timer);
  expect(turns).toBeGreaterThan(5);
});
