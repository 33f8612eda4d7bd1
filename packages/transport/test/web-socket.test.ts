import { once } from 'node:events';
import net, { type AddressInfo } from 'node:net';
import { GodwitError, migrate } from '@godwit/core';
import { ToyVm } from '@godwit/core/testing';
import { connectTo, tcp, webSocket } from '@godwit/transport';
import { testCertificate as certificate, transportSuite } from '@godwit/transport/testing';
import { describe, expect, jest, test } from '@jest/globals';

jest.setTimeout(30_000);

const MiB = 2 ** 20;
const authority = certificate('authority');
const server = certificate('server', { signer: authority, hosts: ['127.0.0.1'] });
const client = certificate('client', { signer: authority });
const listening = { ca: authority.cert, cert: server.cert, key: server.key };
const connecting = { ca: authority.cert, cert: client.cert, key: client.key };
const over = new GodwitError('GODWIT_CANCELLED', 'the test is over');

transportSuite(
  'webSocket',
  { describe, test },
  {
    listen: () => webSocket({ port: 0 }).listen(),
    connect: (listener, signal) => webSocket({ url: listener.address }).connect(signal),
    tellsAbort: true,
    mostHeld: 34 * MiB,
    capabilities: { shortConnections: 300 },
  },
);

transportSuite(
  'webSocket over TLS',
  { describe, test },
  {
    listen: () => webSocket({ port: 0, path: '/migrate', tls: listening }).listen(),
    connect: (listener, signal) => webSocket({ url: listener.address, tls: connecting }).connect(signal),
    tellsAbort: true,
    mostHeld: 34 * MiB,
    capabilities: { shortConnections: 150 },
  },
);

describe('a WebSocket listener refuses, and serves on:', () => {
  const cases: Record<string, { request: string; answer: RegExp; told: RegExp }> = {
    'plain HTTP': {
      request: 'GET / HTTP/1.1\r\nhost: x\r\n\r\n',
      answer: /^HTTP\/1.1 426 /,
      told: /plain HTTP request/,
    },
    'another path': {
      request: upgrade('/elsewhere'),
      answer: /^HTTP\/1.1 404 /,
      told: /asked for \/elsewhere and not for \/vm/,
    },
    'a web page': {
      request: upgrade('/vm', 'origin: https://evil.example\r\n'),
      answer: /^HTTP\/1.1 403 /,
      told: /a web page of https:\/\/evil.example, which origins does not name/,
    },
    'bytes that are no HTTP': {
      request: 'nonsense\r\n\r\n',
      answer: /^HTTP\/1.1 400 /,
      told: /does not speak HTTP.*not with tcp/,
    },
  };
  for (const [name, { request, answer, told }] of Object.entries(cases)) {
    test(name, async () => {
      const refusals: GodwitError[] = [];
      const listener = await webSocket({ port: 0, path: '/vm', onRefused: (error) => refusals.push(error) }).listen();
      const pending = await tcp({ port: listener.port }).connect();
      await pending.write([Buffer.from(request)]);
      const room = new Uint8Array(1000);
      const count = await pending.read(room);
      expect(Buffer.from(room.subarray(0, count)).toString()).toMatch(answer);
      expect(refusals[0]?.message ?? 'no refusal').toMatch(told);
      pending.abort(over);
      const near = await webSocket({ url: listener.address }).connect();
      const far = await listener.accept();
      near.abort(over);
      far.abort(over);
      await listener.close();
    });
  }

  test('text messages', async () => {
    const listener = await webSocket({ port: 0 }).listen();
    const socket = new (await import('ws')).WebSocket(listener.address);
    const closed = new Promise((resolve) => {
      socket.once('close', resolve);
    });
    const far = await listener.accept();
    if (socket.readyState !== socket.OPEN) {
      await new Promise((resolve) => {
        socket.once('open', resolve);
      });
    }
    socket.send('text');
    await expect(far.read(new Uint8Array(1))).rejects.toMatchObject({ code: 'GODWIT_BAD_STREAM' });
    await closed;
    await listener.close();
  });

  test('a source without our certificate', async () => {
    let told: (error: GodwitError) => void = () => undefined;
    const refusal = new Promise<GodwitError>((resolve) => {
      told = resolve;
    });
    const listener = await webSocket({ port: 0, tls: listening, onRefused: (error) => told(error) }).listen();
    const other = certificate('other', { signer: certificate('another authority') });
    const wrong = webSocket({ url: listener.address, tls: { ca: authority.cert, cert: other.cert, key: other.key } });
    await expect(wrong.connect()).rejects.toMatchObject({ code: 'GODWIT_CONNECT_FAILED' });
    expect((await refusal).message).toMatch(
      /its certificate CN=other, issued by CN=another authority: .*not signed by any of the given ca/,
    );
    await listener.close();
  });
});

describe('a source is told', () => {
  test('that the listener has a certificate of another authority, by its name', async () => {
    const listener = await webSocket({ port: 0, tls: listening }).listen();
    const foreign = { ...connecting, ca: certificate('another authority').cert };
    await expect(webSocket({ url: listener.address, tls: foreign }).connect()).rejects.toMatchObject({
      message: expect.stringMatching(
        /its certificate CN=server, issued by CN=authority: .*not signed by any of the given ca/,
      ),
      retry: false,
    });
    await listener.close();
  });

  test('that the listener is encrypted and it is not', async () => {
    const refusals: string[] = [];
    const onRefused = ({ message }: GodwitError) => refusals.push(message);
    const listener = await webSocket({ port: 0, tls: listening, onRefused }).listen();
    await expect(webSocket({ port: listener.port }).connect()).rejects.toMatchObject({
      code: 'GODWIT_CONNECT_FAILED',
      message: expect.stringContaining('the listener speaks TLS, and ws: is plain HTTP'),
      retry: false,
    });
    expect(refusals).toEqual([expect.stringContaining('it speaks HTTP and not TLS')]);
    await listener.close();
  });

  test('that the listener is not encrypted and it is, and so is the listener', async () => {
    const refusals: GodwitError[] = [];
    const listener = await webSocket({ port: 0, onRefused: (error) => refusals.push(error) }).listen();
    const secure = webSocket({ url: `wss://127.0.0.1:${listener.port}/`, tls: connecting });
    await expect(secure.connect()).rejects.toMatchObject({
      message: expect.stringContaining('the listener does not speak TLS'),
      retry: false,
    });
    expect(refusals).toEqual([
      expect.objectContaining({
        message: expect.stringContaining('it speaks TLS, and this port does not'),
        retry: false,
      }),
    ]);
    await listener.close();
  });

  test('of plain TCP, that the port is encrypted, and so is the listener', async () => {
    const refusals: GodwitError[] = [];
    const onRefused = (error: GodwitError) => refusals.push(error);
    const listener = await webSocket({ port: 0, tls: listening, onRefused }).listen();
    const plain = await tcp({ port: listener.port }).connect();
    await plain.write([Uint8Array.of(0xce, 0, 0, 0, 1)]);
    const alert = new Uint8Array(7);
    for (let at = 0; at < alert.length; ) {
      const read = await plain.read(alert.subarray(at));
      if (read === 0) throw new Error('the listener has said nothing');
      at += read;
    }
    // A TLS alert, which a stream of frames says to be one.
    expect([...alert.subarray(0, 3)]).toEqual([0x15, 0x03, 0x03]);
    expect(refusals).toEqual([
      expect.objectContaining({
        message: expect.stringContaining('connect with wss:, not with ws: or tcp'),
        retry: false,
      }),
    ]);
    plain.abort(over);
    await listener.close();
  });

  test.each([
    [
      'closes the connection without a word',
      '',
      /instead of answering \(ECONNRESET\); usually it wants TLS: connect with wss:/,
    ],
    [
      'answers with an alert',
      '\x15\x03\x03\x00\x02\x02\x46',
      /speaks TLS, and answers with an alert \(HPE_\w+\); .* wss:/,
    ],
    [
      'answers as web servers do',
      'HTTP/1.1 400 Bad Request\r\n\r\n',
      /response: 400; a port of HTTPS answers so too: .* wss:/,
    ],
  ])('that a foreign port of TLS, which %s, wants wss:', async (_name, answer, told) => {
    const foreign = net.createServer((socket) => {
      socket.on('error', () => {});
      socket.once('data', () => socket.end(answer, 'latin1'));
    });
    foreign.listen(0, '127.0.0.1');
    await once(foreign, 'listening');
    const { port } = foreign.address() as AddressInfo;
    await expect(webSocket({ port }).connect()).rejects.toMatchObject({
      code: 'GODWIT_CONNECT_FAILED',
      message: expect.stringMatching(told),
      retry: answer === '',
    });
    foreign.close();
    await once(foreign, 'close');
  });

  test('at the end of all attempts what that usually means', async () => {
    const foreign = net.createServer((socket) => {
      socket.on('error', () => {});
      socket.once('data', () => socket.destroy());
    });
    foreign.listen(0, '127.0.0.1');
    await once(foreign, 'listening');
    const { port } = foreign.address() as AddressInfo;
    const vm = new ToyVm([{ id: 'ram', guestPhysicalAddress: 0, byteLength: 4096 }], { running: true });
    const migration = migrate(vm, connectTo(webSocket({ port })), { connectTimeoutMs: 400 });
    let attempts = 0;
    migration.subscribe(({ type }) => {
      if (type === 'connect-failed') attempts++;
    });
    await expect(migration.result).rejects.toMatchObject({
      code: 'GODWIT_CONNECT_FAILED',
      message: expect.stringContaining('usually it wants TLS: connect with wss: in place of ws:'),
    });
    expect(attempts).toBeGreaterThan(1);
    expect(vm.running).toBe(true);
    foreign.close();
    await once(foreign, 'close');
  });

  test('that what answers is no HTTP at all', async () => {
    const other = await tcp({ port: 0 }).listen();
    const accepted = other.accept();
    void accepted.then((far) => far.write([Buffer.from('SSH-2.0-x\r\n')]));
    await expect(webSocket({ port: other.port }).connect()).rejects.toMatchObject({
      message: expect.stringMatching(/does not speak HTTP \(HPE_\w+\); let it listen with webSocket/),
      retry: false,
    });
    (await accepted).abort(over);
    await other.close();
  });

  test('that nobody answers within connectTimeoutMs', async () => {
    const silent = await tcp({ port: 0 }).listen();
    await expect(webSocket({ port: silent.port, connectTimeoutMs: 200 }).connect()).rejects.toMatchObject({
      code: 'GODWIT_CONNECT_FAILED',
      message: expect.stringMatching(
        /no answer from ws:\/\/127\.0\.0\.1:\d+\/ within connectTimeoutMs = 200; does a webSocket\(\.\.\.\) listen there\?/,
      ),
      retry: true,
    });
    await silent.close();
  });
});

test('a listed origin may connect, and addresses that cannot work are refused', async () => {
  const listener = await webSocket({ port: 0, origins: ['https://vmm.example'] }).listen();
  const near = await tcp({ port: listener.port }).connect();
  await near.write([Buffer.from(upgrade('/', 'origin: https://vmm.example\r\n'))]);
  const far = await listener.accept();
  far.abort(over);
  near.abort(over);
  await listener.close();
  expect(() => webSocket({})).toThrow(/needs a url, or a port/);
  expect(() => webSocket({ url: 'http://x' })).toThrow(/expected ws:/);
  expect(() => webSocket({ url: 'wss://x' })).toThrow(/give them as tls/);
  expect(() => webSocket({ url: 'ws://x', tls: connecting })).toThrow(/use wss/);
});

function upgrade(path: string, more = ''): string {
  const fixed = 'host: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n';
  return `GET ${path} HTTP/1.1\r\n${fixed}sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n${more}\r\n`;
}
