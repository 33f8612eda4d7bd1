import { once } from 'node:events';
import net from 'node:net';
import nodeTls from 'node:tls';
import { GodwitError, type IncomingMigration, type Migration, migrate, receive } from '@godwit/core';
import type { VirtualMachine } from '@godwit/example-node-vmm';
import {
  connectTo,
  frameStream,
  type ListeningLinks,
  listenOn,
  type TcpListener,
  type TlsListener,
  type TlsOptions,
  tcp,
  tls,
} from '@godwit/transport';
import { type TestCertificate, testCertificate } from '@godwit/transport/testing';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { LiveGuest } from '../guest/live-guest.js';

jest.setTimeout(60_000);

const host = '127.0.0.1';
const HANDSHAKE_MS = 700;
/** Pending connections that the plain listener holds at a time. */
const ROOM = 64;
const HOUR_MS = 3_600_000;

const authority = testCertificate('authority');
const signed = { signer: authority } as const;
const server = testCertificate('destination', { ...signed, hosts: [host] });
const client = testCertificate('source', signed);

let guest: LiveGuest;
let residentBefore: number;
const refusals: GodwitError[] = [];
/** Over TLS and over plain TCP, each with a destination that waits for the guest throughout. */
let secure: ListeningLinks<TlsListener>;
let plain: ListeningLinks<TcpListener>;
let waiting: IncomingMigration;

beforeAll(async () => {
  guest = await LiveGuest.boot();
  const limits = { handshakeTimeoutMs: HANDSHAKE_MS };
  const own = { host, port: 0, ca: authority.cert, cert: server.cert, key: server.key };
  secure = await listenOn(tls({ ...own, ...limits, onRefused: (error) => refusals.push(error) }), limits);
  plain = await listenOn(tcp({ host, port: 0 }), { ...limits, maximumPending: ROOM });
  waiting = receive(secure, { prepare: (description) => guest.blank(description) });
  waiting.result.catch(() => {});
  globalThis.gc?.();
  residentBefore = process.memoryUsage.rss();
});

afterAll(async () => {
  waiting.cancel();
  await Promise.all([secure.close(), plain.close()]);
  await guest.close();
});

function leave(port: number, { cert, key }: TestCertificate, options: Partial<TlsOptions> = {}): Migration {
  const { machine } = guest;
  const transport = tls({ host, port, ca: authority.cert, cert, key, ...options });
  return migrate(machine, connectTo(transport), { description: machine.description, verify: true, pageChannels: 2 });
}

async function refused(work: Promise<unknown>): Promise<GodwitError> {
  const [outcome] = await Promise.allSettled([work]);
  if (outcome.status === 'fulfilled' || !GodwitError.is(outcome.reason))
    throw new Error('not refused', { cause: outcome });
  expect(guest.machine.state).toBe('running');
  return outcome.reason;
}

/**
 * Resolves once the listener has reported this message about a refused peer to its operator. A source connects with several
 * streams, so that several reports may come.
 */
async function told(from: number, message: RegExp): Promise<void> {
  while (!refusals.slice(from).some((error) => message.test(error.message))) {
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** All bytes that the listener answers to raw bytes, to the end of the connection. */
async function answerTo(port: number, bytes: Uint8Array | string): Promise<Buffer> {
  const socket = net.connect({ host, port });
  socket.on('error', () => {});
  socket.write(bytes);
  const heard: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => heard.push(chunk));
  await once(socket, 'close');
  return Buffer.concat(heard);
}

describe('the destination refuses', () => {
  test.each<readonly [string, TestCertificate, RegExp]>([
    ['a source of another authority', testCertificate('x', { signer: testCertificate('other') }), /not signed by any/],
    ['an expired source', testCertificate('x', { ...signed, notAfter: new Date(Date.now() - HOUR_MS) }), /expired/],
  ])('%s', async (_, wrong, message) => {
    const at = refusals.length;
    const error = await refused(leave(secure.listener.port, wrong).result);
    expect(error).toMatchObject({ code: 'GODWIT_CONNECT_FAILED' });
    await told(at, message);
  });

  test('a source without a certificate', async () => {
    const at = refusals.length;
    const socket = nodeTls.connect({ host, port: secure.listener.port, ca: authority.cert });
    socket.on('error', () => {});
    await told(at, /no certificate/);
    socket.destroy();
  });

  test('plain bytes at the port for TLS', async () => {
    const at = refusals.length;
    const { machine } = guest;
    const link = connectTo(tcp({ host, port: secure.listener.port }));
    const error = await refused(migrate(machine, link, { description: machine.description }).result);
    expect(['GODWIT_BAD_STREAM', 'GODWIT_LINK_LOST', 'GODWIT_CONNECT_FAILED']).toContain(error.code);
    await told(at, /does not speak TLS/);
  });

  test('TLS at a plain port', async () => {
    const error = await refused(leave(plain.listener.port, client).result);
    expect(error).toMatchObject({ code: 'GODWIT_CONNECT_FAILED' });
    // The listener's answer is not TLS either. The source's error says so, and not that the connection was closed.
    expect(error.message).toMatch(/not.*TLS|TLS.*plain/i);
  });

  test('a header of 4 GiB, without allocating it', async () => {
    const answer = await answerTo(plain.listener.port, Buffer.from('ceffffffff', 'hex'));
    expect(answer.toString('latin1')).toMatch(/GODWIT_LIMIT_EXCEEDED.*4294967295/s);
  });

  test('a slow-loris that says a byte now and then, in time', async () => {
    const socket = net.connect({ host, port: plain.listener.port });
    socket.on('error', () => {});
    const heard: Buffer[] = [];
    socket.on('data', (chunk: Buffer) => heard.push(chunk));
    const hello = Buffer.from('ce00000fff9a', 'hex');
    let said = 0;
    const dripping = setInterval(() => socket.write(hello.subarray(said, ++said)), HANDSHAKE_MS / 5);
    await once(socket, 'close');
    clearInterval(dripping);
    expect(Buffer.concat(heard).toString('latin1')).toMatch(/GODWIT_TIMEOUT.*handshakeTimeoutMs/s);
  });

  test('more pending connections than it has room for', async () => {
    const crowd = Array.from({ length: 100 }, () => answerTo(plain.listener.port, Buffer.of(0xce)));
    const answers = await Promise.all(crowd);
    const turnedAway = answers.filter((answer) => answer.includes('GODWIT_LIMIT_EXCEEDED'));
    expect(turnedAway.length).toBeGreaterThanOrEqual(100 - ROOM);
  });
});

describe('the source refuses', () => {
  test.each<readonly [string, TestCertificate, RegExp]>([
    ['a destination of another host', testCertificate('x', { ...signed, hosts: ['192.0.2.7'] }), /192\.0\.2\.7|host/],
    [
      'an expired destination',
      testCertificate('x', { ...signed, hosts: [host], notAfter: new Date(Date.now() - HOUR_MS) }),
      /expired/,
    ],
    [
      'a destination of another authority',
      testCertificate('x', { signer: testCertificate('other'), hosts: [host] }),
      /not signed/,
    ],
  ])('%s', async (_, { cert, key }, message) => {
    const impostor = await listenOn(tls({ host, port: 0, ca: authority.cert, cert, key }));
    const error = await refused(leave(impostor.listener.port, client).result);
    expect(error).toMatchObject({ code: 'GODWIT_CONNECT_FAILED', message: expect.stringMatching(message) });
    await impostor.close();
  });
});

test('who guesses a migration’s id joins nothing; after all that the guest moves, verified', async () => {
  const { machine } = guest;
  const connecting = connectTo(tls({ host, port: secure.listener.port, ca: authority.cert, ...pemOf(client) }));
  const migration = migrate(machine, connecting, {
    description: machine.description,
    verify: true,
    pageChannels: 2,
    pauseBeforeSwitchover: true,
  });
  const answers: string[] = [];
  // A client with valid credentials that asks for a page channel of another client's migration: by a guessed name, and by
  // the right one.
  migration.subscribe(async (event) => {
    if (event.type !== 'state' || event.state !== 'pre-switchover') return;
    const guesses = [migration.id.replace(/^./, (digit) => (digit === '0' ? '1' : '0')), migration.id];
    answers.push(...(await Promise.all(guesses.map((migrationId) => intrude(migrationId)))));
    migration.proceed();
  });
  const [summary, { vm }] = await Promise.all([migration.result, waiting.result]);
  // The migration no longer waits for such a channel.
  expect(answers).toEqual(['GODWIT_TIMEOUT', 'GODWIT_TIMEOUT']);
  expect(summary.verified).toBe(true);
  await guest.moved(vm as VirtualMachine);
  expect(await guest.examine()).toEqual([]);
  globalThis.gc?.();
  expect(process.memoryUsage.rss() - residentBefore).toBeLessThan(128 * 2 ** 20);
});

async function intrude(migrationId: string): Promise<string> {
  const transport = tls({ host, port: secure.listener.port, ca: authority.cert, ...pemOf(client) });
  const stream = frameStream(await transport.connect());
  await stream.write({ type: 'attach', migrationId, index: 0, connection: 1 });
  const received = await stream.read();
  await stream.close();
  return received?.frame.type === 'error' ? received.frame.code : `${received?.frame.type}`;
}

function pemOf({ cert, key }: TestCertificate) {
  return { cert, key };
}
