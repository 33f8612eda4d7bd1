import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { GodwitError } from '@godwit/core';
import {
  type Listener,
  listenOn,
  memory,
  registerTransport,
  transportFromUri,
  type UriOptions,
} from '@godwit/transport';
import { testCertificate as certificate } from '@godwit/transport/testing';
import { afterAll, describe, expect, test } from '@jest/globals';

const directory = await mkdtemp(join(tmpdir(), 'godwit-uri-'));
afterAll(() => rm(directory, { recursive: true }));

const authority = certificate('authority');
const both = certificate('both', { signer: authority, hosts: ['127.0.0.1'] });
const options: UriOptions = { tls: { ca: authority.cert, cert: both.cert, key: both.key } };
const over = new GodwitError('GODWIT_CANCELLED', 'the test is over');

async function carries(listen: string, connect: (listener: Listener) => string): Promise<void> {
  const listener = await transportFromUri(listen, options).listen();
  const accepting = listener.accept();
  const near = await transportFromUri(connect(listener), options).connect();
  const far = await accepting;
  await near.write([Uint8Array.of(7)]);
  const into = new Uint8Array(1);
  expect(await far.read(into)).toBe(1);
  expect(into[0]).toBe(7);
  near.abort(over);
  far.abort(over);
  await listener.close();
}

describe('transportFromUri', () => {
  for (const uri of [
    'tcp:127.0.0.1:0',
    'tcp::0',
    'tcp://127.0.0.1:0',
    'tls:127.0.0.1:0',
    'ws://127.0.0.1:0/x',
    'wss://127.0.0.1:0/',
  ]) {
    test(`listens on ${uri}, and connects to the address that the listener shows`, () =>
      carries(uri, (listener) => listener.address));
  }

  for (const scheme of ['tls', 'wss']) {
    test(`${scheme}: takes what tls says beside its certificates, and tells of a peer that it refuses`, async () => {
      let told: (error: GodwitError) => void = () => {};
      const refusal = new Promise<GodwitError>((resolve) => {
        told = resolve;
      });
      const stranger = certificate('stranger', { signer: certificate('another authority') });
      const timeouts = { connectTimeoutMs: 20_000, handshakeTimeoutMs: 20_000 };
      const near: UriOptions = { tls: { ...options.tls, ...timeouts, onRefused: (error) => told(error) } };
      const far = { tls: { ca: authority.cert, cert: stranger.cert, key: stranger.key, connectTimeoutMs: 20_000 } };
      const listener = await transportFromUri(`${scheme}:${scheme === 'wss' ? '//' : ''}127.0.0.1:0`, near).listen();
      await expect(transportFromUri(listener.address, far).connect()).rejects.toMatchObject({
        code: 'GODWIT_CONNECT_FAILED',
      });
      expect((await refusal).code).toBe('GODWIT_CONNECT_FAILED');
      await listener.close();
    });
  }

  test('wss: refuses an option of tls that it could not keep', () => {
    const kept: UriOptions = { tls: { ...options.tls, keepAliveMs: 5 } };
    expect(() => transportFromUri('wss://127.0.0.1:0/', kept)).toThrow(/webSocket: tls has no option "keepAliveMs"/);
  });

  test('unix, with and without slashes before the path', async () => {
    const path = join(directory, 'a.sock');
    await carries(`unix:${path}`, (listener) => listener.address);
    await carries(`unix://${path}`, () => `unix:${path}`);
  });

  test('exec runs a shell', async () => {
    for (const more of [{}, { exec: { processGroup: false } }]) {
      const stream = await transportFromUri('exec:cat | tr a b', more).connect();
      await stream.write([Buffer.from('a')]);
      await stream.close();
      const into = new Uint8Array(1);
      await stream.read(into);
      expect(into[0]).toBe('b'.charCodeAt(0));
      expect(await stream.read(into)).toBe(0);
    }
  });

  test('file makes links, with the options that stand beside the URI', async () => {
    for (const uri of ['file:/no/such/place', 'file:///no/such/place']) {
      const links = await listenOn(transportFromUri(uri, { file: { pageChannels: 2 } }));
      expect(links.address).toBe('file:/no/such/place');
      await expect(links.accept(new AbortController().signal)).rejects.toMatchObject({ code: 'GODWIT_CONNECT_FAILED' });
      await links.close();
    }
  });

  const wrong: Record<string, RegExp> = {
    '': /starts with none of tcp:, tls:, unix:, exec:, file:, stdio:, ws:, wss:/,
    'localhost:4444': /starts with none of/,
    'tcp:4444': /expected tcp:host:port/,
    'tcp:host:port': /expected tcp:host:port/,
    'tcp:::1:4444': /tcp:\[address\]:port for IPv6/,
    'tcp:h:99999': /from 0 to 65535/,
    'unix:': /1 to 107 bytes/,
    'exec:': /needs a command/,
    'file:': /needs the path of a file/,
    'ws://': /expected ws:/,
    'wss://h/': /give them as tls/,
    'tls:h:1': /TLS needs ca, cert and key/,
  };
  for (const [uri, message] of Object.entries(wrong)) {
    test(`refuses "${uri}" and says what it wants`, () => {
      expect(() => transportFromUri(uri)).toThrow(message);
    });
  }

  test('knows schemes that were registered, once each', () => {
    const own = memory();
    const seen: unknown[] = [];
    registerTransport('pigeon', (rest, given, uri) => {
      seen.push(rest, given['pigeon'], uri);
      return own;
    });
    expect(transportFromUri('pigeon:loft/7', { pigeon: { speed: 3 } })).toBe(own);
    expect(seen).toEqual(['loft/7', { speed: 3 }, 'pigeon:loft/7']);
    expect(() => registerTransport('pigeon', () => own)).toThrow(/exists already/);
    expect(() => registerTransport('tls', () => own)).toThrow(/exists already/);
    expect(() => registerTransport('Pi geon', () => own)).toThrow(/lower-case letter/);
  });
});
