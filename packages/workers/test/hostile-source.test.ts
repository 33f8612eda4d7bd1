import { setTimeout as sleep } from 'node:timers/promises';
import { type Frame, type FrameStream, GodwitError, type HelloFrame, receive } from '@godwit/core';
import { type ByteStream, connectTo, frameStream, listenOn, type TcpListener, tcp } from '@godwit/transport';
import { onWorkers } from '@godwit/workers';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { StillGuest } from './still-guest.js';
import { ThreadWatch } from './threads.js';

jest.setTimeout(120_000);

const ID = '0123456789abcdef0123456789abcdef';
const PAGE = 4096;
const never = new AbortController().signal;

/** Plays the source by hand against `receive` whose page channels live on worker threads. */
class Hostile {
  readonly target = new StillGuest(false, [2 ** 20]);
  control!: FrameStream;
  pages!: FrameStream;
  /** The page channel without frames. */
  bytes!: ByteStream;

  constructor(readonly listening: { readonly listener: TcpListener; close(): Promise<void> }) {}

  async hello(): Promise<void> {
    const transport = tcp({ port: this.listening.listener.port });
    const link = await connectTo(transport).connect({ migrationId: ID, pageChannels: 0, connection: 1 }, never);
    this.control = link.control;
    this.bytes = await transport.connect();
    this.pages = frameStream(this.bytes);
    await this.pages.write({ type: 'attach', migrationId: ID, index: 0, connection: 1 });
  }

  async welcomed(): Promise<void> {
    const hello: HelloFrame = {
      type: 'hello',
      minimumVersion: 2,
      maximumVersion: 2,
      migrationId: ID,
      software: 'test',
      pageSize: PAGE,
      blocks: [{ id: 'ram0', guestPhysicalAddress: 0, byteLength: 2 ** 20, identity: '' }],
      devices: [],
      features: [],
      pageChannels: 1,
      description: null,
      connection: 1,
      stage: 'running',
      attempt: 1,
    };
    await this.control.write(hello);
    expect((await this.control.read())?.frame).toMatchObject({ type: 'welcome' });
  }

  /** Reads what the destination says until it lets go. */
  async answers(): Promise<Frame[]> {
    const frames: Frame[] = [];
    try {
      for (;;) {
        const received = await this.control.read();
        if (received === null) break;
        frames.push(received.frame);
      }
    } catch {
      // Reset.
    }
    await Promise.all([this.control.close(), this.pages.close()]);
    return frames;
  }
}

let threads: ThreadWatch;
let listening: Awaited<ReturnType<typeof listenOn<TcpListener>>>;
beforeEach(async () => {
  threads = new ThreadWatch();
  listening = await listenOn(tcp({ port: 0 }));
});
afterEach(async () => {
  await listening.close();
  threads.stop();
});

function pages(first: number, count: number, round = 1, block = 0): Frame {
  return { type: 'pages', round, block, runs: [first, count] };
}

const full = (count: number): Uint8Array[] => [new Uint8Array(count * PAGE).fill(9)];

const attacks: [string, string, (hostile: Hostile) => Promise<unknown>][] = [
  ['pages behind the end of a block', 'GODWIT_OUT_OF_RANGE', (h) => h.pages.write(pages(255, 2), full(2))],
  ['pages of a block that is not there', 'GODWIT_OUT_OF_RANGE', (h) => h.pages.write(pages(0, 1, 1, 3), full(1))],
  ['fewer bytes than pages', 'GODWIT_PROTOCOL', (h) => h.pages.write(pages(0, 2), full(1))],
  ['more bytes than pages', 'GODWIT_PROTOCOL', (h) => h.pages.write(pages(0, 1), full(2))],
  ['pages of a round to come', 'GODWIT_PROTOCOL', (h) => h.pages.write(pages(0, 1, 2), full(1))],
  [
    'runs that overlap',
    'GODWIT_PROTOCOL',
    (h) => h.pages.write({ type: 'zeroPages', round: 1, block: 0, runs: [0, 4, 3, 2] }),
  ],
  [
    'a round that ends with pages missing',
    'GODWIT_PROTOCOL',
    (h) => h.pages.write({ type: 'roundEnd', round: 1, pages: 5 }),
  ],
  ['a payload beyond the limit', 'GODWIT_LIMIT_EXCEEDED', (h) => h.bytes.write([hugePayload()])],
  ['a frame that belongs on the control stream', 'GODWIT_PROTOCOL', (h) => h.pages.write({ type: 'go', attempt: 1 })],
  [
    'bytes that are no frame',
    'GODWIT_BAD_STREAM',
    (h) => h.bytes.write([new TextEncoder().encode('GET / HTTP/1.1\r\n')]),
  ],
  ['a header of 4 GiB', 'GODWIT_LIMIT_EXCEEDED', (h) => h.bytes.write([new Uint8Array([0xce, 255, 255, 255, 255])])],
  ['the end of the stream', 'GODWIT_LINK_LOST', (h) => h.pages.close()],
  [
    'pages after a round that it has ended itself',
    'GODWIT_PROTOCOL',
    async (h) => {
      await h.pages.write({ type: 'roundEnd', round: 1, pages: 0 });
      await h.pages.write(pages(0, 1), full(1));
    },
  ],
];

/** The head of a `pages` frame of one page whose `bin 32` claims to have 2 GiB. */
function hugePayload(): Uint8Array {
  return new Uint8Array([0xce, 0, 0, 0, 7, 0x94, 5, 1, 0, 0x92, 0, 1, 0xc6, 0x80, 0, 0, 0]);
}

describe('a worker thread refuses', () => {
  test.each(attacks)('%s', async (_, code, attack) => {
    const hostile = new Hostile(listening);
    const incoming = receive(onWorkers(listening), { prepare: () => hostile.target, reconnectTimeoutMs: 0 });
    const ended = incoming.result.then(
      () => undefined,
      (error: unknown) => error,
    );
    await hostile.hello();
    await hostile.welcomed();
    await attack(hostile).catch(() => undefined);
    expect(await ended).toMatchObject({ code });
    const said = await hostile.answers();
    // Over a lost link nothing is said.
    if (code !== 'GODWIT_LINK_LOST') expect(said.at(-1)).toMatchObject({ type: 'error', code });
    expect(hostile.target.running).toBe(false);
    expect(hostile.target.abandoned).toMatchObject({ code });
    expect(threads.alive.size).toBe(0);
    hostile.target.memory.close();
  });
});

test('pages after the switchover drop the link, and who is ready waits for another one', async () => {
  const hostile = new Hostile(listening);
  const incoming = receive(onWorkers(listening), { prepare: () => hostile.target });
  // A subscription that stays: the last one to go would cancel.
  const lost = new Promise<GodwitError>((resolve) => {
    incoming.subscribe({ next: (event) => event.type === 'link-lost' && resolve(event.reason), error: () => {} });
  });
  await hostile.hello();
  await hostile.welcomed();
  await hostile.pages.write({ type: 'roundEnd', round: 1, pages: 0 });
  expect((await hostile.control.read())?.frame).toEqual({ type: 'roundAck', round: 1, pages: 0 });
  await hostile.control.write({ type: 'switchover', round: 1, attempt: 1, runState: 'running' });
  expect((await hostile.control.read())?.frame).toMatchObject({ type: 'ready' });
  await hostile.pages.write(pages(0, 1, 2), full(1)).catch(() => undefined);
  expect(await lost).toMatchObject({ code: 'GODWIT_PROTOCOL' });
  expect([incoming.ownership, hostile.target.running]).toEqual(['ready', false]);
  incoming.cancel();
  await expect(incoming.result).rejects.toMatchObject({ code: 'GODWIT_CANCELLED' });
  await hostile.answers();
  expect(threads.alive.size).toBe(0);
  hostile.target.memory.close();
});

test('what a source says before it is welcome is not lost on the way to the thread', async () => {
  const hostile = new Hostile(listening);
  const incoming = receive(onWorkers(listening), { prepare: () => hostile.target });
  await hostile.hello();
  // The first is read ahead while the channel waits for its migration, head and a part of the payload.
  await hostile.pages.write(pages(3, 2), full(2));
  await hostile.pages.write(pages(100, 20), full(20));
  await hostile.welcomed();
  await hostile.pages.write({ type: 'roundEnd', round: 1, pages: 22 });
  expect((await hostile.control.read())?.frame).toEqual({ type: 'roundAck', round: 1, pages: 22 });
  incoming.cancel();
  await expect(incoming.result).rejects.toMatchObject({ code: 'GODWIT_CANCELLED' });
  await hostile.answers();
  const ram = hostile.target.memory.blocks[0]?.view(0, 2 ** 20) as Uint8Array;
  expect(ram.reduce((sum, byte) => sum + byte, 0)).toBe(22 * PAGE * 9);
  expect([ram[3 * PAGE], ram[5 * PAGE - 1], ram[100 * PAGE], ram[120 * PAGE - 1]]).toEqual([9, 9, 9, 9]);
  expect(threads.alive.size).toBe(0);
});

test('a reset in the middle of a payload is named, behind the bytes that came before it', async () => {
  const hostile = new Hostile(listening);
  const ended = receive(onWorkers(listening), { prepare: () => hostile.target, reconnectTimeoutMs: 0 }).result.catch(
    (error: unknown) => error,
  );
  await hostile.hello();
  await hostile.welcomed();
  await hostile.pages.write({ type: 'roundEnd', round: 1, pages: 0 });
  expect((await hostile.control.read())?.frame).toEqual({ type: 'roundAck', round: 1, pages: 0 });
  // The head of 100 pages, and the first bytes of them.
  await hostile.bytes.write([new Uint8Array([0xce, 0, 0, 0, 7, 0x94, 5, 2, 0, 0x92, 0, 100, 0xc6, 0, 6, 0x40, 0])]);
  await hostile.bytes.write([new Uint8Array(3 * PAGE).fill(9)]);
  const ram = hostile.target.memory.blocks[0]?.view(0, 3 * PAGE) as Uint8Array;
  while (ram.at(-1) !== 9) await new Promise(setImmediate);
  hostile.bytes.abort(new GodwitError('GODWIT_CANCELLED', 'the test'));
  expect(await ended).toMatchObject({ code: 'GODWIT_LINK_LOST', message: expect.stringContaining('ECONNRESET') });
  await hostile.answers();
  expect(threads.alive.size).toBe(0);
  hostile.target.memory.close();
});

test('a payload that comes a byte at a time is no silence, and comes whole', async () => {
  const hostile = new Hostile(listening);
  const options = { keepaliveMs: 500, silenceTimeoutMs: 1500, reconnectTimeoutMs: 0 };
  const incoming = receive(onWorkers(listening, { threads: 1 }), { prepare: () => hostile.target, ...options });
  const ended = incoming.result.catch((error: unknown) => error);
  await hostile.hello();
  await hostile.welcomed();
  // The thread has started, and reads.
  await hostile.pages.write({ type: 'roundEnd', round: 1, pages: 0 });
  expect((await hostile.control.read())?.frame).toEqual({ type: 'roundAck', round: 1, pages: 0 });
  const heard = (async () => {
    for (;;) {
      const frame = (await hostile.control.read())?.frame;
      if (frame?.type !== 'ping') return frame;
    }
  })();
  const count = 100;
  const payload = new Uint8Array(count * PAGE).map((_, i) => i % 251);
  await hostile.bytes.write([new Uint8Array([0xce, 0, 0, 0, 7, 0x94, 5, 2, 0, 0x92, 0, count])]);
  await hostile.bytes.write([
    new Uint8Array([0xc6, ...new Uint8Array(new Uint32Array([payload.length]).buffer).reverse()]),
  ]);
  let at = 0;
  // As long as two silences would be.
  for (const until = performance.now() + 2 * options.silenceTimeoutMs; performance.now() < until; at++) {
    await hostile.bytes.write([payload.subarray(at, at + 1)]);
    // This is what a slow link is; nothing is waited for.
    await sleep(10);
  }
  await hostile.bytes.write([payload.subarray(at)]);
  await hostile.pages.write({ type: 'roundEnd', round: 2, pages: count });
  expect(await heard).toEqual({ type: 'roundAck', round: 2, pages: count });
  expect(hostile.target.memory.blocks[0]?.view(0, payload.length)).toEqual(payload);
  incoming.cancel();
  expect(await ended).toMatchObject({ code: 'GODWIT_CANCELLED' });
  await hostile.answers();
  expect(threads.alive.size).toBe(0);
  hostile.target.memory.close();
});
