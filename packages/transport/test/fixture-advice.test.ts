import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ByteStream, type TcpListener, type Transport, tcp, unix } from '@godwit/transport';
import { type TransportFixture, transportSuite } from '@godwit/transport/testing';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';

jest.setTimeout(120_000);

let folder: string;
let sockets = 0;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-advice-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const overTcp = {
  listen: () => tcp({ port: 0 }).listen(),
  connect: (listener: unknown, signal?: AbortSignal) => tcp({ port: (listener as TcpListener).port }).connect(signal),
  tellsAbort: true,
  mostHeld: 32 * 2 ** 20,
} satisfies TransportFixture;

const overUnix = {
  listen: () => unix({ path: join(folder, `${sockets++}.sock`) }).listen(),
  connect: (listener: { readonly address: string }, signal?: AbortSignal) =>
    unix({ path: listener.address.slice('unix:'.length) }).connect(signal),
  tellsAbort: false,
  mostHeld: 4 * 2 ** 20,
} satisfies TransportFixture;

/** Connects as a carrier does that tells only by a read that nobody listens. */
async function lateRefusal(listener: unknown, signal?: AbortSignal): Promise<ByteStream> {
  const transport: Transport = tcp({ port: (listener as TcpListener).port });
  return transport.connect(signal).catch(async (error: unknown) => {
    if (signal?.aborted === true) throw error;
    const other = await tcp({ port: 0 }).listen();
    const stream = await tcp({ port: other.port }).connect();
    await other.close();
    return stream;
  });
}

/** Runs one test of the suite; resolves with its message. */
async function messageOf(fixture: TransportFixture, name: RegExp): Promise<string> {
  const bodies: (() => Promise<void>)[] = [];
  transportSuite(
    'a carrier',
    {
      describe: (_name, body) => body(),
      test: (title, body) => name.test(title) && bodies.push(body),
    },
    fixture,
  );
  expect(bodies).toHaveLength(1);
  return (bodies[0] as () => Promise<void>)().then(
    () => 'it passed',
    (error: Error) => error.message,
  );
}

describe('a test that fails because of a wrong flag names it', () => {
  test.each<[string, TransportFixture, RegExp, RegExp]>([
    ['tellsAbort', { ...overUnix, tellsAbort: true }, /a peer that aborts is noticed/, /set tellsAbort: false$/],
    ['no tellsAbort', { ...overTcp, tellsAbort: false }, /a peer that aborts is noticed/, /set tellsAbort: true$/],
    ['mostHeld', { ...overTcp, mostHeld: 1000 }, /a slow reader/, /bytes were taken .* set mostHeld$/],
    [
      'tellsRefusal',
      { ...overTcp, connect: lateRefusal },
      /a closed listener/,
      /set capabilities\.tellsRefusal: false$/,
    ],
    [
      'no tellsRefusal',
      { ...overTcp, capabilities: { tellsRefusal: false } },
      /a closed listener/,
      /leave capabilities\.tellsRefusal out$/,
    ],
    [
      'streamsAtOnce',
      { ...overTcp, connect: () => Promise.reject(new Error('too many processes')) },
      /streams at once/,
      /too many processes \(where 24 cost too much, set capabilities\.streamsAtOnce\)$/,
    ],
    [
      'shortConnections',
      { ...overTcp, connect: () => Promise.reject(new Error('too many processes')) },
      /one after the other/,
      /\(where 1000 take too long, set capabilities\.shortConnections\)$/,
    ],
  ])('%s', async (_flag, fixture, name, message) => {
    expect(await messageOf(fixture, name)).toMatch(message);
  });

  test('a flag that does not exist is refused', () => {
    const suite = (fixture: object) => () =>
      transportSuite('a carrier', { describe: (_name, body) => body(), test: () => undefined }, fixture as never);
    expect(suite({ ...overTcp, tellAbort: true })).toThrow('did you mean "tellsAbort"?');
    expect(suite({ ...overTcp, capabilities: { streamAtOnce: 3 } })).toThrow('did you mean "streamsAtOnce"?');
    expect(suite(overTcp)).not.toThrow();
  });

  test('and those that are right pass', async () => {
    for (const name of [/a peer that aborts is noticed/, /a closed listener/]) {
      expect(await messageOf(overTcp, name)).toBe('it passed');
      expect(await messageOf(overUnix, name)).toBe('it passed');
    }
  });
});
