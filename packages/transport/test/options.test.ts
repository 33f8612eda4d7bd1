import { MessageChannel } from 'node:worker_threads';
import {
  connectTo,
  exec,
  file,
  listenOn,
  memory,
  messagePort,
  recordTo,
  type TlsCredentials,
  tcp,
  tls,
  transportFromUri,
  unix,
  webSocket,
} from '@godwit/transport';
import { testCertificate } from '@godwit/transport/testing';
import { describe, expect, test } from '@jest/globals';

const psk = { identity: 'migration-7', key: new Uint8Array(32).fill(5) };
const refusal = async (call: () => unknown): Promise<string> => {
  try {
    await call();
  } catch (error) {
    expect(error).toMatchObject({ code: 'GODWIT_INVALID_ARGUMENT', retry: false });
    return (error as Error).message;
  }
  throw new Error('it was accepted');
};

describe('an option that does not exist is refused, before anything is opened:', () => {
  test.each<readonly [string, () => unknown, string]>([
    ['tcp', () => tcp({ port: 1, conectTimeoutMs: 5 } as never), 'did you mean "connectTimeoutMs"?'],
    ['tcp', () => tcp({ port: 1, keepAlive: 5 } as never), 'did you mean "keepAliveMs"?'],
    ['tls', () => tls({ port: 1, psk, serverName: 'x' } as never), 'did you mean "servername"?'],
    ['psk', () => tls({ port: 1, psk: { ...psk, Key: 1 } } as never), 'did you mean "key"?'],
    ['unix', () => unix({ path: '/x', connectTimeout: 5 } as never), 'did you mean "connectTimeoutMs"?'],
    ['exec', () => exec({ command: 'cat', arg: [] } as never), 'did you mean "args"?'],
    ['webSocket', () => webSocket({ port: 1, origin: ['x'] } as never), 'did you mean "origins"?'],
    [
      'webSocket: tls',
      () => webSocket({ port: 1, tls: { psk, minVersoin: 'TLSv1.3' } as TlsCredentials }),
      'did you mean "minVersion"?',
    ],
    ['file', () => file({ path: '/x', pageChannel: 5 } as never), 'did you mean "pageChannels"?'],
    ['memory', () => memory({ buferBytes: 5 } as never), 'did you mean "bufferBytes"?'],
    [
      'messagePort',
      () => messagePort(new MessageChannel().port1, { windowbytes: 5 } as never),
      'did you mean "windowBytes"?',
    ],
    ['connectTo', () => connectTo(memory(), { lingerMS: 5 } as never), 'did you mean "lingerMs"?'],
    ['listenOn', () => listenOn(memory(), { maxPending: 5 } as never), 'it has checksums, handshakeTimeoutMs'],
    ['listenOn', () => listenOn(memory(), { onRefuse: () => {} } as never), 'did you mean "onRefused"?'],
    ['recordTo', () => recordTo('/no/such/folder', { onfailure: () => {} } as never), 'did you mean "onFailure"?'],
    ['tcp', () => transportFromUri('tcp:h:1', { tcp: { keepalivems: 5 } as never }), 'did you mean "keepAliveMs"?'],
    ['testCertificate', () => testCertificate('x', { host: ['127.0.0.1'] } as never), 'did you mean "hosts"?'],
    ['transportFromUri', () => transportFromUri('tcp:h:1', { tpc: {} }), 'did you mean "tcp"?'],
    ['webSocket: tls', () => transportFromUri('wss://h:1/', { tls: { psk, minversion: 1 } as never }), '"minVersion"?'],
  ])('%s', async (what, call, message) => {
    const told = await refusal(call);
    expect(told).toContain(`${what} has no option`);
    expect(told).toContain(message);
  });
});

describe('a value of the wrong type is quoted as it was given:', () => {
  test.each<readonly [string, () => unknown, string]>([
    ['a port', () => tcp({ port: '50' as never }), "a TCP port is an integer from 0 to 65535, got '50', a string"],
    ['a port of TLS', () => tls({ port: '50' as never, psk }), "got '50', a string"],
    ['a port of a WebSocket', () => webSocket({ port: '50' as never }), "got '50', a string"],
    [
      'a time',
      () => tcp({ port: 1, connectTimeoutMs: '50' as never }),
      "connectTimeoutMs must be a number of at least 0, got '50', a string",
    ],
    ['a time of a UNIX socket', () => unix({ path: '/x', connectTimeoutMs: '5' as never }), 'connectTimeoutMs must be'],
    ['a path', () => unix({ path: 50 as never }), 'unix needs the path of a socket, got 50'],
    ['a host', () => tcp({ host: 50 as never, port: 1 }), 'host must be a name or an address, got 50'],
    ['a host of TLS', () => tls({ host: '', port: 1, psk }), "host must be a name or an address, got '', a string"],
    ['rights', () => unix({ path: '/x', mode: '600' as never }), "a number from 0 to 0o777, got '600', a string"],
    ['a URI', () => transportFromUri(undefined as never), 'expected a URI such as "tcp:host:4444", got undefined'],
    ['page channels of a snapshot', () => file({ path: '/x', pageChannels: '50' as never }), "got '50', a string"],
    ['a check of a snapshot', () => file({ path: '/x', verify: 'yes' as never }), "got 'yes', a string"],
    [
      'a time of streams',
      () => connectTo(memory(), { lingerMs: '50' as never }),
      'lingerMs must be a number of at least 0',
    ],
    ['a limit of streams', () => listenOn(memory(), { maximumRuns: '50' as never }), "got '50', a string"],
    [
      'checksums',
      () => connectTo(memory(), { checksums: 'yes' as never }),
      "checksums must be true or false, got 'yes'",
    ],
    [
      'no transport',
      () => connectTo(undefined as never),
      'connectTo takes a transport, such as tcp() returns, got undef',
    ],
    ['a URI for a transport', () => listenOn('tcp:h:1' as never), "such as tcp() returns, got 'tcp:h:1', a string"],
    [
      'the path of a snapshot',
      () => file({ path: undefined as never }),
      'a snapshot needs the path of a file, got undefined',
    ],
  ])('%s', async (_name, call, message) => expect(await refusal(call)).toContain(message));
});

test('a key that is text is refused, and not shown', async () => {
  const told = await refusal(() => tls({ port: 1, psk: { identity: 'a', key: 'do not show this' as never } }));
  expect(told).toBe('the key of psk must be bytes (a Uint8Array or a Buffer), not a value of type string');
});

test('a scheme that is nearly one has a suggestion', async () => {
  expect(await refusal(() => transportFromUri('tpc:host:4444'))).toMatch(
    /"tpc:host:4444" starts with none of tcp:, tls:, .*; did you mean "tcp:"\?/,
  );
});
