import dns from 'node:dns';
import net from 'node:net';
import { GodwitError } from '@godwit/core';
import { type ListeningLinks, listenOn, type TcpListener, tcp, tls, webSocket } from '@godwit/transport';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';

jest.setTimeout(30_000);

const over = new GodwitError('GODWIT_CANCELLED', 'the test is over');
const HOST = 'vm-host.test';

type Behaviour = 'silent' | 'refuses' | 'answers' | 'late';

/** Outcomes by address, instead of a network. */
let behaviour: Record<string, Behaviour> = {};
/** Addresses in the order in which they were tried, and the sockets. */
let tried: string[] = [];
let sockets: net.Socket[] = [];
let links: ListeningLinks<TcpListener>;

beforeEach(async () => {
  links = await listenOn(tcp({ port: 0 }));
  tried = [];
  sockets = [];
  const real = net.connect;
  jest.spyOn(net, 'connect').mockImplementation(((options: net.TcpNetConnectOpts) => {
    const address = String(options.host);
    tried.push(address);
    const at = behaviour[address] ?? 'answers';
    // A real socket that is connected when the behaviour says so: to the listener, or to a port where nobody is.
    const socket =
      at === 'answers'
        ? real({ ...options, host: '127.0.0.1', port: links.listener.port })
        : new net.Socket(options as net.SocketConstructorOpts);
    if (at === 'refuses') {
      const error = Object.assign(new Error(`connect ECONNREFUSED ${address}:4444`), { code: 'ECONNREFUSED' });
      process.nextTick(() => socket.destroy(error));
    }
    if (at === 'late') setTimeout(() => socket.connect({ host: '127.0.0.1', port: links.listener.port }), 600);
    sockets.push(socket);
    return socket;
  }) as typeof net.connect);
});

afterEach(async () => {
  jest.restoreAllMocks();
  for (const socket of sockets) socket.destroy();
  await links.close();
});

function resolving(addresses: readonly string[]): void {
  const answer = addresses.map((address) => ({ address, family: net.isIP(address) }));
  jest.spyOn(dns, 'lookup').mockImplementation(((
    _host: string,
    _options: unknown,
    done: (...args: unknown[]) => void,
  ) => {
    process.nextTick(done, null, answer);
  }) as typeof dns.lookup);
}

describe('a name with several addresses', () => {
  test('the next one is tried beside one that is silent, which is dropped once another answers', async () => {
    resolving(['192.0.2.1', '192.0.2.2']);
    behaviour = { '192.0.2.1': 'silent' };
    const stream = await tcp({ host: HOST, port: 4444 }).connect();
    expect(tried).toEqual(['192.0.2.1', '192.0.2.2']);
    expect(sockets[0]?.destroyed).toBe(true);
    stream.abort(over);
  });

  test('one that takes longer than its head start is not given up, although the next refuses', async () => {
    resolving(['192.0.2.1', '192.0.2.2']);
    behaviour = { '192.0.2.1': 'late', '192.0.2.2': 'refuses' };
    const stream = await tcp({ host: HOST, port: 4444 }).connect();
    expect(tried).toEqual(['192.0.2.1', '192.0.2.2']);
    expect(sockets[0]?.destroyed).toBe(false);
    stream.abort(over);
  });

  test('the families take turns, the first one of the resolver first', async () => {
    resolving(['2001:db8::1', '2001:db8::2', '192.0.2.1', '192.0.2.2', '192.0.2.3']);
    behaviour = Object.fromEntries(
      ['2001:db8::1', '2001:db8::2', '192.0.2.1', '192.0.2.2', '192.0.2.3'].map((address) => [address, 'refuses']),
    );
    await expect(tcp({ host: HOST, port: 4444 }).connect()).rejects.toMatchObject({
      code: 'GODWIT_CONNECT_FAILED',
      message:
        'cannot connect to tcp://vm-host.test:4444: none of 5 addresses answers: ' +
        'connect ECONNREFUSED 2001:db8::1:4444; connect ECONNREFUSED 192.0.2.1:4444; ' +
        'connect ECONNREFUSED 2001:db8::2:4444; connect ECONNREFUSED 192.0.2.2:4444; connect ECONNREFUSED 192.0.2.3:4444: ' +
        'nothing listens there; start the destination first and compare the address',
      retry: true,
    });
    expect(tried).toEqual(['2001:db8::1', '192.0.2.1', '2001:db8::2', '192.0.2.2', '192.0.2.3']);
  });

  test.each(['tcp', 'tls', 'webSocket'])(
    'over %s, when the time is up, each is named with what became of it, and nothing is left',
    async (kind) => {
      resolving(['192.0.2.1', '192.0.2.2', '192.0.2.3']);
      behaviour = { '192.0.2.1': 'refuses', '192.0.2.2': 'silent', '192.0.2.3': 'silent' };
      const where = { host: HOST, port: 4444, connectTimeoutMs: 200 };
      const psk = { identity: 'x', key: new Uint8Array(32) };
      const transport = kind === 'tcp' ? tcp(where) : kind === 'tls' ? tls({ ...where, psk }) : webSocket(where);
      await expect(transport.connect()).rejects.toMatchObject({
        code: 'GODWIT_CONNECT_FAILED',
        message: expect.stringMatching(
          /none of 3 addresses answers: connect ECONNREFUSED 192\.0\.2\.1:4444; no answer from 192\.0\.2\.2 within connectTimeoutMs = 200; 192\.0\.2\.3 had no turn within/,
        ),
        retry: true,
      });
      expect(tried).toEqual(['192.0.2.1', '192.0.2.2']);
      expect(sockets.map(({ destroyed }) => destroyed)).toEqual([true, true]);
    },
  );

  test('cancelled, all are dropped', async () => {
    resolving(['192.0.2.1', '192.0.2.2']);
    behaviour = { '192.0.2.1': 'refuses', '192.0.2.2': 'silent' };
    const controller = new AbortController();
    const connecting = tcp({ host: HOST, port: 4444 }).connect(controller.signal);
    while (tried.length < 2) await new Promise((resolve) => setImmediate(resolve));
    controller.abort(over);
    await expect(connecting).rejects.toBe(over);
    expect(sockets.map(({ destroyed }) => destroyed)).toEqual([true, true]);
  });

  test('a name that is answered after the end is not connected to', async () => {
    let answer: () => void = () => undefined;
    jest.spyOn(dns, 'lookup').mockImplementation(((
      _host: string,
      _options: unknown,
      done: (...args: unknown[]) => void,
    ) => {
      answer = () => done(null, [{ address: '192.0.2.1', family: 4 }]);
    }) as typeof dns.lookup);
    await expect(tcp({ host: HOST, port: 4444, connectTimeoutMs: 50 }).connect()).rejects.toMatchObject({
      message: expect.stringContaining(
        'the name service has not answered for vm-host.test within connectTimeoutMs = 50',
      ),
      retry: true,
    });
    answer();
    await new Promise((resolve) => setImmediate(resolve));
    expect(tried).toEqual([]);
  });
});
