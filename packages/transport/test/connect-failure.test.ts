import dns from 'node:dns';
import { createServer } from 'node:http';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { exec, type TlsCredentials, tcp, tls, unix, webSocket } from '@godwit/transport';
import { testCertificate as certificate } from '@godwit/transport/testing';
import { afterEach, describe, expect, jest, test } from '@jest/globals';

jest.setTimeout(30_000);

const authority = certificate('authority');
const server = certificate('server', { signer: authority, hosts: ['127.0.0.1'] });
const foreign = certificate('server', { signer: certificate('another authority'), hosts: ['127.0.0.1'] });
const credentials: TlsCredentials = { ca: authority.cert, cert: server.cert, key: server.key };

afterEach(() => {
  jest.restoreAllMocks();
});

async function closedPort(): Promise<number> {
  const listener = await tcp({ port: 0 }).listen();
  await listener.close();
  return listener.port;
}

/** A host whose connection fails with these codes, one an address. */
async function failing(...codes: readonly string[]): Promise<unknown> {
  const answer = codes.map((_, at) => ({ address: `192.0.2.${at + 1}`, family: 4 }));
  jest.spyOn(dns, 'lookup').mockImplementation(((
    _host: string,
    _options: unknown,
    done: (...args: unknown[]) => void,
  ) => {
    process.nextTick(done, null, answer);
  }) as typeof dns.lookup);
  const left = [...codes];
  jest.spyOn(net, 'connect').mockImplementation((() => {
    const socket = new net.Socket();
    const code = left.shift();
    process.nextTick(() => socket.destroy(Object.assign(new Error(`connect ${code}`), { code })));
    return socket;
  }) as typeof net.connect);
  return tcp({ host: 'vm-host.test', port: 4444 })
    .connect()
    .catch((error: unknown) => error);
}

describe('whether another attempt to connect may go better', () => {
  test.each<readonly [readonly string[], boolean, RegExp]>([
    [['ECONNREFUSED'], true, /connect ECONNREFUSED: nothing listens there; start the destination first/],
    [['ETIMEDOUT'], true, /no answer; check the route and the firewalls/],
    [['EHOSTUNREACH'], true, /no route to that host/],
    [['ENETUNREACH'], true, /no route to that network/],
    [['EAGAIN'], true, /too many connections wait there already; try again later/],
    [['ECONNRESET'], true, /connect ECONNRESET$/],
    [['EMFILE'], true, /too many open files; raise its limit/],
    [['EACCES'], false, /no permission/],
    [['EPERM'], false, /connect EPERM$/],
    [['EADDRNOTAVAIL'], false, /this host has no such address/],
    [['EINVAL'], false, /connect EINVAL$/],
    [['EACCES', 'EPERM'], false, /none of 2 addresses answers: connect EACCES; connect EPERM: no permission/],
    [['ENETUNREACH', 'ECONNREFUSED'], true, /connect ENETUNREACH; connect ECONNREFUSED: no route.*: nothing listens/],
    [['EACCES', 'ETIMEDOUT'], true, /connect EACCES; connect ETIMEDOUT/],
  ])('%j: %s', async (codes, retry, message) => {
    expect(await failing(...codes)).toMatchObject({
      code: 'GODWIT_CONNECT_FAILED',
      message: expect.stringMatching(message),
      retry,
      cause: codes.length === 1 ? { code: codes[0] } : { errors: codes.map((code) => ({ code })) },
    });
  });

  test.each([
    ['ENOTFOUND', false, /the name does not resolve/],
    ['EAI_AGAIN', true, /the name service does not answer/],
  ] as const)('the name service says %s: %s', async (code, retry, message) => {
    jest.spyOn(dns, 'lookup').mockImplementation(((
      _host: string,
      _options: unknown,
      done: (...args: unknown[]) => void,
    ) => {
      process.nextTick(done, Object.assign(new Error(`getaddrinfo ${code} vm-host.test`), { code }));
    }) as typeof dns.lookup);
    for (const transport of [
      tcp({ host: 'vm-host.test', port: 1 }),
      tls({ host: 'vm-host.test', port: 1, ...credentials }),
    ]) {
      await expect(transport.connect()).rejects.toMatchObject({
        code: 'GODWIT_CONNECT_FAILED',
        message: expect.stringMatching(message),
        retry,
      });
    }
  });

  test('a UNIX socket that is not there yet', () =>
    expect(unix({ path: join(tmpdir(), 'godwit-none.sock') }).connect()).rejects.toMatchObject({
      message: expect.stringMatching(/ENOENT.*there is no such socket; start the destination first/),
      retry: true,
      cause: { code: 'ENOENT' },
    }));

  test('a destination that does not listen yet, over any carrier', async () => {
    const port = await closedPort();
    for (const transport of [tcp({ port }), tls({ port, ...credentials }), webSocket({ port })]) {
      await expect(transport.connect()).rejects.toMatchObject({
        message: expect.stringMatching(/ECONNREFUSED.*nothing listens there/),
        retry: true,
      });
    }
  });

  test('a certificate of another authority, on both sides', async () => {
    let told: (refusal: unknown) => void = () => undefined;
    const refusal = new Promise((resolve) => {
      told = resolve;
    });
    const listener = await tls({ port: 0, ...credentials, onRefused: told }).listen();
    const wrong = { ca: authority.cert, cert: foreign.cert, key: foreign.key };
    await expect(tls({ port: listener.port, ...wrong }).connect()).rejects.toMatchObject({
      message: expect.stringContaining('refused our certificate'),
      retry: false,
    });
    expect(await refusal).toMatchObject({
      // The peer's own address, although its connection is gone.
      message: expect.stringMatching(
        / refused tls:\/\/127\.0\.0\.1:[1-9]\d* with certificate CN=server, issued by CN=another authority: .*not signed by any of the given ca/,
      ),
      retry: false,
    });
    await listener.close();
    const other = await tls({ port: 0, ...wrong }).listen();
    await expect(tls({ port: other.port, ...credentials }).connect()).rejects.toMatchObject({ retry: false });
    await other.close();
  });

  test('a listener that hangs up in the TLS handshake, because it has too many', async () => {
    const hangsUp = net.createServer((socket) => socket.destroy());
    await new Promise<void>((resolve) => hangsUp.listen(0, '127.0.0.1', resolve));
    const { port } = hangsUp.address() as net.AddressInfo;
    await expect(tls({ port, ...credentials }).connect()).rejects.toMatchObject({
      message: expect.stringContaining('closed the connection during the TLS handshake'),
      retry: true,
    });
    await new Promise((resolve) => hangsUp.close(resolve));
  });

  test.each([
    [404, false],
    [403, false],
    [429, true],
    [503, true],
  ])('an HTTP server that answers a WebSocket with %i: %s', async (status, retry) => {
    const http = createServer();
    http.on('upgrade', (_request, socket) => {
      socket.end(`HTTP/1.1 ${status} No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`);
    });
    await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
    const { port } = http.address() as net.AddressInfo;
    await expect(webSocket({ port }).connect()).rejects.toMatchObject({
      message: expect.stringContaining(String(status)),
      retry,
    });
    await new Promise((resolve) => http.close(resolve));
  });

  test('a program that does not exist', () =>
    expect(exec({ command: 'no-such-program' }).connect()).rejects.toMatchObject({
      message: expect.stringContaining('there is no such program in PATH'),
      retry: false,
    }));

  test('an address that is taken may become free; one that this host does not have, hardly', async () => {
    const listener = await tcp({ port: 0 }).listen();
    await expect(tcp({ port: listener.port }).listen()).rejects.toMatchObject({
      message: expect.stringMatching(/listen EADDRINUSE: .*something listens there already; stop it/),
      retry: true,
      cause: { code: 'EADDRINUSE' },
    });
    await expect(tcp({ host: '192.0.2.1', port: 0 }).listen()).rejects.toMatchObject({
      message: expect.stringContaining('this host has no such address'),
      retry: false,
    });
    await listener.close();
  });
});
