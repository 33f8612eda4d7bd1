import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import {
  type ErrorCode,
  type Frame,
  type GodwitError,
  type MigrateOptions,
  migrate,
  type WelcomeFrame,
} from '@godwit/core';
import { type ByteStream, connectTo, frameStream, listenOn, type TcpListener, tcp } from '@godwit/transport';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { failureOf, LiveGuest } from './bad-input-guest.js';

jest.setTimeout(60_000);

let guest: LiveGuest;

beforeAll(async () => {
  guest = await LiveGuest.boot();
});

afterAll(() => guest?.close());

function moveTo(port: number, options: MigrateOptions = {}) {
  const migration = migrate(guest.vm, connectTo(tcp({ port })), { description: guest.vm.description, ...options });
  return failureOf(migration.result);
}

/**
 * Moves the guest to a peer that the test plays, and returns the source's error and the frames that the peer received.
 */
async function play(part: (stream: ByteStream) => Promise<readonly Frame[]>, options?: MigrateOptions) {
  const listener: TcpListener = await tcp({ port: 0 }).listen();
  try {
    const [source, heard] = await Promise.all([moveTo(listener.port, options), listener.accept().then(part)]);
    return { source, heard };
  } finally {
    await listener.close();
  }
}

/** Writes words that the engine does not understand, and reads the stream to its end. */
async function say(stream: ByteStream, ...words: readonly string[]): Promise<readonly Frame[]> {
  for (const word of words) await stream.write([Buffer.from(word, 'latin1')]);
  return listenToTheEnd(stream, () => []);
}

/** Answers each frame by `answers` and returns all frames that came. */
async function listenToTheEnd(
  stream: ByteStream,
  answers: (frame: Frame) => readonly (Frame | Uint8Array)[],
): Promise<readonly Frame[]> {
  const frames = frameStream(stream);
  const heard: Frame[] = [];
  for (;;) {
    const received = await frames.read();
    if (received === null) break;
    await frames.skipPayload();
    heard.push(received.frame);
    for (const answer of answers(received.frame)) {
      await (answer instanceof Uint8Array ? stream.write([answer]) : frames.write(answer));
    }
  }
  await frames.close();
  return heard;
}

/** Checks that the source's last frame tells the peer the error, once, although the peer broke the protocol itself. */
function expectLastWords(heard: readonly Frame[], source: GodwitError): void {
  const errors = heard.filter(({ type }) => type === 'error');
  expect(errors).toEqual([{ type: 'error', code: source.code, message: source.message, retry: false }]);
  expect(heard.at(-1)).toBe(errors[0]);
}

const WELCOME: WelcomeFrame = {
  type: 'welcome',
  version: 2,
  features: [],
  software: 'a/1',
  maximumPayload: 2 ** 20,
  incarnation: '1'.repeat(32),
  maximumDeviceState: 2 ** 28,
};

test.each<readonly [string, string, RegExp]>([
  ['garbage', '\x07\x99garbage', /expected a frame, which starts with ce, got 07 99 67 61/],
  ['a header that is no MessagePack', '\xce\0\0\0\x02\xc1\xc1', /header is no valid MessagePack object/],
  ['a header of 4 GiB', '\xce\xff\xff\xff\xff', /4294967295 bytes.*maximumHeaderBytes = 1048576/],
  ['SSH', 'SSH-2.0-OpenSSH_9.9\r\n', /got 53 53 48 .*this looks like SSH/],
  ['a TLS alert', '\x15\x03\x03\0\x02\x02\x46', /this looks like a TLS alert; one side encrypts/],
])('a destination that answers %s', async (_, words, message) => {
  const { source, heard } = await play((stream) => say(stream, words));
  expect(source.message).toMatch(message);
  expect(source).toMatchObject({ code: words.startsWith('\xce\xff') ? 'GODWIT_LIMIT_EXCEEDED' : 'GODWIT_BAD_STREAM' });
  expect(heard[0]).toMatchObject({ type: 'hello' });
  expectLastWords(heard.slice(1), source);
  await guest.runsOn();
});

test('a web server', async () => {
  const server = createServer();
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
  const source = await moveTo((server.address() as AddressInfo).port);
  await new Promise((resolve) => void server.close(resolve));
  expect(source).toMatchObject({ code: 'GODWIT_BAD_STREAM', remote: false });
  expect(source.message).toMatch(/expected a frame, .* this looks like HTTP; is this the right port\?/);
  await guest.runsOn();
});

/** Allows one attempt: a second one would begin after this time. */
const ONCE = { connectTimeoutMs: 50 };

test('a peer that closes at once', async () => {
  const { source } = await play(async (stream) => {
    await stream.close();
    // Bytes that the source had written by then may reset the connection.
    return listenToTheEnd(stream, () => []).catch(() => []);
  }, ONCE);
  expect(source).toMatchObject({ code: 'GODWIT_LINK_LOST' });
  await guest.runsOn();
});

test('a peer that is silent', async () => {
  const { source, heard } = await play((stream) => say(stream), { ...ONCE, handshakeTimeoutMs: 200 });
  expect(source).toMatchObject({ code: 'GODWIT_TIMEOUT' });
  expect(source.message).toContain('no answer from the destination within handshakeTimeoutMs (200 ms)');
  expect(heard.at(-1)).toEqual({ type: 'error', code: source.code, message: source.message, retry: true });
  await guest.runsOn();
});

test('nobody', async () => {
  const listener = await tcp({ port: 0 }).listen();
  await listener.close();
  const source = await moveTo(listener.port);
  expect(source).toMatchObject({ code: 'GODWIT_CONNECT_FAILED' });
  expect(source.message).toContain(`tcp://127.0.0.1:${listener.port}`);
  await guest.runsOn();
});

const honest = (frame: Frame): readonly Frame[] => {
  if (frame.type === 'hello') return [WELCOME];
  if (frame.type === 'ping') return [{ type: 'pong', id: frame.id }];
  return [];
};

test.each<readonly [string, ErrorCode, RegExp, Frame['type'], Frame | Uint8Array]>([
  [
    'welcomes with another protocol version',
    'GODWIT_VERSION_MISMATCH',
    /protocol version 3; offered were 2 to 2/,
    'hello',
    { ...WELCOME, version: 3 },
  ],
  [
    'takes less than a page in a frame',
    'GODWIT_LIMIT_EXCEEDED',
    /at most 4095 bytes in a frame: less than a page of 4096 bytes/,
    'hello',
    { ...WELCOME, maximumPayload: 4095 },
  ],
  [
    'answers hello with something else',
    'GODWIT_PROTOCOL',
    /the destination sent "ready" on the control stream in phase "greeting"/,
    'hello',
    { type: 'ready', attempt: 1, loadMs: 0 },
  ],
  [
    'acknowledges pages that it did not get',
    'GODWIT_PROTOCOL',
    /round 1: \d+ pages were sent, but the destination acknowledged 3/,
    'roundEnd',
    { type: 'roundAck', round: 1, pages: 3 },
  ],
  [
    'says that it runs before it may',
    'GODWIT_PROTOCOL',
    /"running"/,
    'pages',
    { type: 'running', resumeMs: 0, sinceReadyMs: 0 },
  ],
  [
    'turns to garbage in the middle',
    'GODWIT_BAD_STREAM',
    /starts with ce, got text: "garbage/,
    'pages',
    Buffer.from('garbage'),
  ],
])('a destination that %s', async (_, code, message, after, answer) => {
  let said = false;
  const { source, heard } = await play((stream) =>
    listenToTheEnd(stream, (frame) => {
      if (frame.type !== after) return honest(frame);
      if (said) return [];
      said = true;
      return [answer];
    }),
  );
  expect(source).toMatchObject({ code, remote: false });
  expect(source.message).toMatch(message);
  expectLastWords(heard, source);
  await guest.runsOn();
});

test('after all that the very same guest moves, verified', async () => {
  const links = await listenOn(tcp({ port: 0 }));
  await guest.move(links);
  await links.close();
});
