import { GodwitError } from '@godwit/core';
import {
  connectTo,
  listenOn,
  type TlsCredentials,
  type TlsListener,
  type TlsOptions,
  tcp,
  tls,
} from '@godwit/transport';
import { testCertificate as certificate, transportSuite } from '@godwit/transport/testing';
import { describe, expect, jest, test } from '@jest/globals';

jest.setTimeout(30_000);

/** What `tls` takes of a certificate. */
function pair(...made: Parameters<typeof certificate>): { readonly cert: string; readonly key: string } {
  const { cert, key } = certificate(...made);
  return { cert, key };
}

const MiB = 2 ** 20;
const authority = certificate('authority');
const pending = certificate('another authority');
const server = certificate('server', { signer: authority, hosts: ['127.0.0.1', 'vm-host.example'] });
const client = certificate('client', { signer: authority });
const listening: TlsCredentials = { ca: authority.cert, cert: server.cert, key: server.key };
const connecting: TlsCredentials = { ca: authority.cert, cert: client.cert, key: client.key };
const psk = { identity: 'migration-7', key: new Uint8Array(32).fill(5) };

function suite(name: string, near: TlsCredentials, far: TlsCredentials): void {
  transportSuite(
    name,
    { describe, test },
    {
      listen: () => tls({ port: 0, ...far }).listen(),
      connect: (listener, signal) => tls({ port: (listener as TlsListener).port, ...near }).connect(signal),
      tellsAbort: true,
      mostHeld: 33 * MiB,
      capabilities: { shortConnections: 150 },
    },
  );
}

suite('tls with certificates', connecting, listening);
suite('tls with a pre-shared key', { psk }, { psk });

/** A listener, what it refused, and what an honest source does with it afterwards. */
async function withListener(
  far: Partial<TlsOptions>,
  body: (listener: TlsListener, refusal: Promise<GodwitError>) => Promise<void>,
  honest: TlsCredentials = connecting,
): Promise<void> {
  let told: (error: GodwitError) => void = () => undefined;
  const refusal = new Promise<GodwitError>((resolve) => {
    told = resolve;
  });
  const listener = await tls({ port: 0, ...far, onRefused: (error) => told(error) }).listen();
  const first = listener.accept();
  await body(listener, refusal);
  const near = await tls({ port: listener.port, ...honest }).connect();
  const far_ = await first;
  await near.write([new Uint8Array([42])]);
  const into = new Uint8Array(1);
  expect(await far_.read(into)).toBe(1);
  expect(into[0]).toBe(42);
  const over = new GodwitError('GODWIT_CANCELLED', 'the test is over');
  near.abort(over);
  far_.abort(over);
  await listener.close();
}

const CONNECT_FAILED = 'GODWIT_CONNECT_FAILED';

/** A peer with its address, its certificate and who has issued it. */
const REFUSED_BY_NAME =
  /^tls:\/\/127\.0\.0\.1:\d+ refused tls:\/\/127\.0\.0\.1:[1-9]\d* with certificate CN=(expired|early|foreign|self-signed), (issued by CN=(another )?authority|signed by itself): /;

describe('a listener refuses, tells why, and serves on:', () => {
  const expired = certificate('expired', { signer: authority, notAfter: new Date(Date.now() - 1000) });
  const early = certificate('early', { signer: authority, notBefore: new Date(Date.now() + 3_600_000) });
  const foreign = certificate('foreign', { signer: pending });
  const self = certificate('self-signed');
  const bad: Record<string, { cert: string; key: string; told: RegExp }> = {
    'an expired certificate': { ...expired, told: /has expired; renew it.*CERT_HAS_EXPIRED/ },
    'a certificate that is not valid yet': { ...early, told: /not valid yet; compare the clocks/ },
    'a certificate of another authority': { ...foreign, told: /not signed by any of the given ca/ },
    'a self-signed certificate': { ...self, told: /not signed by any of the given ca/ },
  };
  for (const [name, { cert, key, told }] of Object.entries(bad)) {
    test(name, () =>
      withListener(listening, async (listener, refusal) => {
        const wrong = tls({ port: listener.port, ca: authority.cert, cert, key }).connect();
        await expect(wrong).rejects.toMatchObject({
          code: CONNECT_FAILED,
          message: expect.stringMatching(
            /: our certificate CN=[a-z -]+, (issued by CN=[a-z ]+|signed by itself): .*refused our certificate/,
          ),
        });
        expect(await refusal).toMatchObject({ code: CONNECT_FAILED, message: expect.stringMatching(told) });
        expect((await refusal).message).toMatch(REFUSED_BY_NAME);
      }),
    );
  }

  test('a source without a certificate', () =>
    withListener(listening, async (listener, refusal) => {
      const nodeTls = await import('node:tls');
      const socket = nodeTls.connect({ port: listener.port, ca: authority.cert, host: '127.0.0.1' });
      const failed = new Promise((resolve) => {
        socket.once('error', resolve);
      });
      expect((await refusal).message).toMatch(/shows no certificate; give it a cert and key/);
      expect(await failed).toMatchObject({ code: 'ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED' });
      socket.destroy();
    }));

  test('a source that does not accept our certificate, as soon as it has left', () =>
    withListener({ ...listening, handshakeTimeoutMs: 600_000 }, async (listener, refusal) => {
      const other = certificate('another authority');
      const source = certificate('source', { signer: authority });
      await expect(
        tls({ port: listener.port, ca: other.cert, cert: source.cert, key: source.key }).connect(),
      ).rejects.toMatchObject({ code: CONNECT_FAILED, retry: false });
      expect((await refusal).message).toMatch(/it left during the TLS handshake; it may not accept our certificate/);
    }));

  test('plain TCP, which is told so too', () =>
    withListener(listening, async (listener, refusal) => {
      const connector = connectTo(tcp({ port: listener.port }));
      const request = { migrationId: '0'.repeat(32), pageChannels: 0, connection: 1 };
      const link = await connector.connect(request, AbortSignal.timeout(10_000));
      await link.control.write({ type: 'ping', id: 1 });
      await expect(link.control.read()).rejects.toMatchObject({
        code: 'GODWIT_BAD_STREAM',
        message: expect.stringMatching(
          /TLS alert; one side encrypts and the other does not: use tls\(\.\.\.\) at both/,
        ),
        retry: false,
      });
      expect((await refusal).message).toMatch(/does not speak TLS; connect with tls/);
      link.control.abort(new GodwitError('GODWIT_CANCELLED', 'done'));
    }));

  test('plain bytes', () =>
    withListener(listening, async (listener, refusal) => {
      const near = await tcp({ port: listener.port }).connect();
      await near.write([Buffer.from('not TLS at all')]);
      expect((await refusal).message).toMatch(/does not speak TLS; connect with tls/);
      near.abort(new GodwitError('GODWIT_CANCELLED', 'done'));
    }));

  test('a silent peer, after handshakeTimeoutMs', () =>
    withListener({ ...listening, handshakeTimeoutMs: 200 }, async (listener, refusal) => {
      const near = await tcp({ port: listener.port }).connect();
      expect((await refusal).message).toContain('handshakeTimeoutMs');
      near.abort(new GodwitError('GODWIT_CANCELLED', 'done'));
    }));

  test('an older version of TLS', () =>
    withListener(listening, async (listener, refusal) => {
      const nodeTls = await import('node:tls');
      const socket = nodeTls.connect({ port: listener.port, ...(connecting as object), maxVersion: 'TLSv1.2' });
      socket.on('error', () => undefined);
      expect((await refusal).message).toMatch(/older versions of TLS/);
      socket.destroy();
    }));

  test('another pre-shared key, and another identity', async () => {
    for (const wrong of [
      { ...psk, key: new Uint8Array(32).fill(6) },
      { ...psk, identity: 'somebody else' },
    ]) {
      await withListener(
        { psk },
        async (listener, refusal) => {
          const failed = tls({ port: listener.port, psk: wrong }).connect();
          await expect(failed).rejects.toMatchObject({
            code: CONNECT_FAILED,
            message: expect.stringMatching(/pre-shared key|psk/),
          });
          expect((await refusal).message).toMatch(/pre-shared key/);
        },
        { psk },
      );
    }
  });

  test('nothing at all while a handshake goes on: closing drops it', async () => {
    const listener = await tls({ port: 0, ...listening }).listen();
    const near = await tcp({ port: listener.port }).connect();
    await listener.close();
    await expect(
      near.read(new Uint8Array(1)).then((count) => (count === 0 ? Promise.reject(new Error('end')) : count)),
    ).rejects.toThrow();
    near.abort(new GodwitError('GODWIT_CANCELLED', 'done'));
  });
});

describe('a source refuses', () => {
  const bad: Record<string, { far: TlsCredentials; near?: Partial<TlsOptions>; told: RegExp }> = {
    'a listener of another authority': {
      far: { ...pair('x', { signer: pending, hosts: ['127.0.0.1'] }), ca: authority.cert },
      told: /not signed by any of the given ca/,
    },
    'an expired certificate': {
      far: {
        ...pair('x', { signer: authority, hosts: ['127.0.0.1'], notAfter: new Date(Date.now() - 1000) }),
        ca: authority.cert,
      },
      told: /has expired; renew it/,
    },
    'a certificate for another host': {
      far: { ...pair('x', { signer: authority, hosts: ['other.example'] }), ca: authority.cert },
      told: /for another host; connect to a name that it has, or set servername/,
    },
    'another name than servername': { far: listening, near: { servername: 'else.example' }, told: /set servername/ },
  };
  for (const [name, { far, near, told }] of Object.entries(bad)) {
    test(name, async () => {
      const listener = await tls({ port: 0, ...far }).listen();
      const failed = tls({ port: listener.port, ...connecting, ...near }).connect();
      await expect(failed).rejects.toMatchObject({ code: CONNECT_FAILED, message: expect.stringMatching(told) });
      await expect(failed).rejects.toThrow(
        /cannot connect to tls:\/\/127\.0\.0\.1:\d+: its certificate CN=(x|server), issued by CN=/,
      );
      await listener.close();
    });
  }

  test('nothing when the certificate has the servername', async () => {
    const listener = await tls({ port: 0, ...listening }).listen();
    const near = await tls({ port: listener.port, ...connecting, servername: 'vm-host.example' }).connect();
    near.abort(new GodwitError('GODWIT_CANCELLED', 'done'));
    await listener.close();
  });

  test('a plain port, whose listener names TLS and serves on', async () => {
    let told: (message: string) => void = () => undefined;
    const refused = new Promise<string>((resolve) => {
      told = resolve;
    });
    const onRefused = ({ message }: GodwitError, peer: string) => told(`${peer}: ${message}`);
    const links = await listenOn(tcp({ port: 0 }), { onRefused });
    const failed = tls({ port: links.listener.port, ...connecting }).connect();
    await expect(failed).rejects.toMatchObject({
      code: CONNECT_FAILED,
      message: expect.stringMatching(/does not speak TLS|may not speak TLS/),
    });
    expect(await refused).toMatch(
      /^tcp:\/\/127\.0\.0\.1:\d+: .*got 16 03 .*looks like TLS; one side encrypts and the other does not: use tls/,
    );
    await links.close();
  });

  test('a plain port that says nothing, after connectTimeoutMs', async () => {
    const listener = await tcp({ port: 0 }).listen();
    const failed = tls({ port: listener.port, ...connecting, connectTimeoutMs: 200 }).connect();
    await expect(failed).rejects.toMatchObject({
      code: CONNECT_FAILED,
      message: expect.stringContaining('connectTimeoutMs = 200'),
    });
    await listener.close();
  });

  test('a listener that shows a certificate instead of knowing the key', async () => {
    const listener = await tls({ port: 0, ...listening }).listen();
    await expect(tls({ port: listener.port, psk }).connect()).rejects.toMatchObject({
      code: CONNECT_FAILED,
      message: expect.stringMatching(
        /shows a certificate, and this side has a pre-shared key; give both sides the same/,
      ),
    });
    await listener.close();
  });
});

test('credentials that cannot work are refused before anything is opened', async () => {
  expect(() => tls({ port: 1, ca: authority.cert })).toThrow(/cert and key missing/);
  expect(() => tls({ port: 1 })).toThrow(/TLS needs ca, cert and key/);
  expect(() => tls({ port: 1, psk, ca: authority.cert })).toThrow(/not both/);
  expect(() => tls({ port: 1, psk: { identity: 'x', key: new Uint8Array(8) } })).toThrow(/16 to 64 random bytes/);
  expect(() => tls({ port: 1, psk, minVersion: 'TLSv1.2' })).toThrow(/needs TLS 1.3/);
  await expect(tls({ port: 0, ...listening, key: 'nonsense' }).listen()).rejects.toMatchObject({
    code: 'GODWIT_INVALID_ARGUMENT',
  });
});
