import { readFileSync } from 'node:fs';
import {
  FRAME_TYPES,
  type Frame,
  type FrameStream,
  GodwitError,
  HELLO_STAGES,
  MOVED_RUN_STATES,
  RESUMED_STATES,
} from '@godwit/core';
import { frameStream, memoryPair } from '@godwit/transport';
import { describe, expect, test } from '@jest/globals';
import { playing, recording } from './byte-streams.js';

interface Vector {
  readonly name: string;
  readonly hex: string;
  readonly frame: Frame;
  readonly payload?: string;
}

interface Malformed {
  readonly name: string;
  readonly hex: string;
  readonly code: string;
  readonly says: string;
}

const load = (file: string): unknown =>
  JSON.parse(readFileSync(new URL(`../test/vectors/${file}`, import.meta.url), 'utf8'));
const VECTORS = load('frames.json') as Vector[];
const MALFORMED = load('malformed.json') as Malformed[];
const isString = (value: unknown): value is string => typeof value === 'string';
const bytesOf = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex, 'hex'));

async function encode(frame: Frame, payload?: readonly Uint8Array[]): Promise<Uint8Array> {
  const carrier = recording();
  await frameStream(carrier).write(frame, payload);
  return carrier.bytes();
}

async function readWhole(stream: FrameStream): Promise<{ frame: Frame; payload: Uint8Array } | null> {
  const received = await stream.read();
  if (received === null) return null;
  const payload = new Uint8Array(received.payloadBytes);
  await stream.readPayload([payload]);
  return { frame: received.frame, payload };
}

describe('the wire format', () => {
  test('has a vector for every frame type', () => {
    expect(new Set(VECTORS.map((vector) => vector.frame.type))).toEqual(new Set(Object.keys(FRAME_TYPES)));
  });

  test('has a vector for every word that a field may have', () => {
    const words = (field: string) =>
      new Set(VECTORS.map(({ frame }) => (frame as unknown as Record<string, unknown>)[field]).filter(isString));
    expect(words('stage')).toEqual(new Set(HELLO_STAGES));
    expect(words('state')).toEqual(new Set(RESUMED_STATES));
    expect(words('runState')).toEqual(new Set(MOVED_RUN_STATES));
  });

  for (const vector of VECTORS) {
    test(`writes and reads: ${vector.name}`, async () => {
      const payload = vector.payload === undefined ? undefined : [bytesOf(vector.payload)];
      expect(Buffer.from(await encode(vector.frame, payload)).toString('hex')).toBe(vector.hex);
      const stream = frameStream(playing(bytesOf(vector.hex)));
      expect(await readWhole(stream)).toEqual({ frame: vector.frame, payload: bytesOf(vector.payload ?? '') });
      expect(await stream.read()).toBeNull();
    });
  }

  for (const { name, hex, code, says } of MALFORMED) {
    for (const [how, size] of [
      ['at once', Number.POSITIVE_INFINITY],
      ['byte by byte', 1],
    ] as const) {
      test(`refuses, ${how}: ${name}`, async () => {
        const stream = frameStream(playing(bytesOf(hex), () => size));
        const failed = stream.read();
        // A hint needs more than the first byte.
        const message = how === 'at once' ? says : code === 'GODWIT_BAD_STREAM' ? '' : says;
        await expect(failed).rejects.toMatchObject({ code, message: expect.stringContaining(message) });
        // Where the next frame starts is unknown: the stream stays failed.
        await expect(stream.read()).rejects.toMatchObject({ code });
      });
    }
  }

  test('ends inside every frame at every byte: a lost link, never a frame', async () => {
    for (const vector of VECTORS) {
      const whole = bytesOf(vector.hex);
      for (let length = 1; length < whole.length; length++) {
        const stream = frameStream(playing(whole.subarray(0, length)));
        await expect(readWhole(stream)).rejects.toMatchObject({ code: 'GODWIT_LINK_LOST' });
      }
    }
  });

  test('ignores further fields of a frame: a later version may append some', async () => {
    const stream = frameStream(playing(bytesOf('ce00000004' + '931105a0')));
    expect((await stream.read())?.frame).toEqual({ type: 'ping', id: 5 });
  });

  test('refuses an identity that is too long: cut, it would name another memory', async () => {
    const hello = VECTORS[0]?.frame as Extract<Frame, { type: 'hello' }>;
    const named = (length: number): Frame => ({
      ...hello,
      blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 0, identity: 'x'.repeat(length) }],
    });
    await expect(encode(named(256))).rejects.toMatchObject({
      code: 'GODWIT_INVALID_ARGUMENT',
      message: expect.stringContaining('the identity of RAM block "ram" has 256 characters'),
    });
    expect((await frameStream(playing(await encode(named(255)))).read())?.frame).toEqual(named(255));
  });

  test('takes an integer in any of the forms that MessagePack has for it', async () => {
    for (const id of [
      '05',
      'cc05',
      'cd0005',
      'ce00000005',
      'cf0000000000000005',
      'd005',
      'd10005',
      'd200000005',
      'd30000000000000005',
    ]) {
      const header = `9211${id}`;
      const length = (header.length / 2).toString(16).padStart(8, '0');
      const stream = frameStream(playing(bytesOf(`ce${length}${header}`)));
      expect((await stream.read())?.frame).toEqual({ type: 'ping', id: 5 });
    }
  });
});

describe('a frame stream', () => {
  const pages: Frame = { type: 'pages', round: 1, block: 0, runs: [0, 1] };

  test('carries payloads at the edges of its limits, and not beyond', async () => {
    for (const size of [0, 1, 65_535, 65_536, 65_537, 1 << 20]) {
      const wire = await encode(pages, [new Uint8Array(size).fill(7)]);
      const whole = await readWhole(frameStream(playing(wire), { maximumPayloadBytes: 1 << 20 }));
      expect(whole?.payload.length).toBe(size);
      expect(whole?.payload.every((byte) => byte === 7)).toBe(true);
    }
    const over = await encode(pages, [new Uint8Array((1 << 20) + 1)]);
    await expect(frameStream(playing(over), { maximumPayloadBytes: 1 << 20 }).read()).rejects.toMatchObject({
      code: 'GODWIT_LIMIT_EXCEEDED',
    });
    const sender = frameStream(recording(), { maximumPayloadBytes: 100 });
    await expect(sender.write(pages, [new Uint8Array(101)])).rejects.toMatchObject({ code: 'GODWIT_LIMIT_EXCEEDED' });
    expect(sender.bytesWritten).toBe(0);
  });

  test('limits the runs of a frame and the bytes of a header, on both sides', async () => {
    const wire = await encode({ type: 'zeroPages', round: 1, block: 0, runs: Array.from({ length: 202 }, () => 1) });
    await expect(frameStream(playing(wire), { maximumRuns: 100 }).read()).rejects.toMatchObject({
      code: 'GODWIT_LIMIT_EXCEEDED',
    });
    expect((await frameStream(playing(wire), { maximumRuns: 101 }).read())?.frame.type).toBe('zeroPages');
    await expect(frameStream(playing(wire), { maximumHeaderBytes: 200 }).read()).rejects.toMatchObject({
      code: 'GODWIT_LIMIT_EXCEEDED',
    });
    await expect(
      frameStream(recording(), { maximumHeaderBytes: 20 }).write({
        type: 'error',
        code: 'X',
        message: 'long'.repeat(9),
        retry: false,
      }),
    ).rejects.toMatchObject({ code: 'GODWIT_LIMIT_EXCEEDED' });
  });

  test('reads a header larger than its first buffer', async () => {
    const description = { text: 'x'.repeat(500_000), numbers: Array.from({ length: 1000 }, (_, i) => i * 2 ** 30) };
    const hello = { ...(VECTORS[1]?.frame as Extract<Frame, { type: 'hello' }>), description };
    const wire = await encode(hello);
    for (const size of [Number.POSITIVE_INFINITY, 1000]) {
      expect((await frameStream(playing(wire, () => size)).read())?.frame).toEqual(hello);
    }
  });

  test('cuts the message of an error frame to 4096 characters', async () => {
    const wire = await encode({ type: 'error', code: 'GODWIT_INTERNAL', message: 'm'.repeat(10_000), retry: false });
    const received = await frameStream(playing(wire)).read();
    expect((received as unknown as { frame: Extract<Frame, { type: 'error' }> }).frame.message).toHaveLength(4096);
  });

  test('refuses a description that other languages could not read, and says where it is', async () => {
    const hello = VECTORS[1]?.frame as Extract<Frame, { type: 'hello' }>;
    for (const [description, path] of [
      [{ a: [() => 1] }, 'description.a[0] is a function'],
      [new Map(), 'description is an object of class Map'],
      [{ when: new Date(0) }, 'description.when is an object of class Date'],
      [{ big: 2n ** 64n }, 'description.big is a bigint of more than 64 bits'],
    ] as const) {
      await expect(encode({ ...hello, description })).rejects.toMatchObject({
        code: 'GODWIT_INVALID_ARGUMENT',
        message: expect.stringContaining(path),
      });
    }
    const description = { u: undefined, n: 2 ** 53 - 1, m: -(2 ** 40), b: new Uint8Array([1, 2]), q: 2n ** 63n };
    const received = await frameStream(playing(await encode({ ...hello, description }))).read();
    const { u: _u, ...rest } = description;
    const got = (received as { frame: typeof hello }).frame.description as typeof rest;
    expect(got).toEqual({ ...rest, b: expect.anything() });
    expect(Array.from(got.b)).toEqual([1, 2]);
  });

  test('gives bytes of a description that later reads do not change', async () => {
    const hello = {
      ...(VECTORS[1]?.frame as Extract<Frame, { type: 'hello' }>),
      description: new Uint8Array(100).fill(5),
    };
    const [near, far] = memoryPair();
    const source = frameStream(near);
    const destination = frameStream(far);
    await source.write(hello);
    const received = await destination.read();
    await source.write({ type: 'error', code: 'X', message: 'y'.repeat(4000), retry: false });
    await destination.read();
    const { description } = (received as unknown as { frame: typeof hello }).frame;
    expect(description.every((byte) => byte === 5)).toBe(true);
  });

  test('keeps the order of overlapping writes and never mixes frames', async () => {
    const carrier = recording();
    const stream = frameStream(carrier);
    await Promise.all([
      stream.write(pages, [new Uint8Array(3), new Uint8Array(2)]),
      stream.write({ type: 'roundEnd', round: 1, pages: 1 }),
      stream.write(pages, [new Uint8Array(1)]),
    ]);
    expect(stream.bytesWritten).toBe(carrier.bytes().length);
    const reader = frameStream(playing(carrier.bytes()));
    expect((await readWhole(reader))?.payload.length).toBe(5);
    expect((await readWhole(reader))?.frame.type).toBe('roundEnd');
    expect((await readWhole(reader))?.payload.length).toBe(1);
    expect(reader.bytesRead).toBe(stream.bytesWritten);
  });

  test('tells misuse from a broken stream, and survives it', async () => {
    const wire = await encode(pages, [new Uint8Array(10)]);
    const stream = frameStream(playing(wire));
    const first = stream.read();
    await expect(stream.read()).rejects.toMatchObject({ code: 'GODWIT_INVALID_STATE' });
    await first;
    await expect(stream.read()).rejects.toMatchObject({ code: 'GODWIT_INVALID_STATE' });
    await expect(stream.readPayload([new Uint8Array(9)])).rejects.toMatchObject({ code: 'GODWIT_INVALID_ARGUMENT' });
    await stream.skipPayload();
    expect(await stream.read()).toBeNull();
    await expect(frameStream(recording()).write({ type: 'go', attempt: 1 }, [new Uint8Array(1)])).rejects.toMatchObject(
      {
        code: 'GODWIT_INVALID_ARGUMENT',
      },
    );
    await expect(frameStream(recording()).write({ type: 'nonsense' } as unknown as Frame)).rejects.toMatchObject({
      code: 'GODWIT_INVALID_ARGUMENT',
    });
  });

  test('close resolves once both sides are done, whoever still reads', async () => {
    const [near, far] = memoryPair();
    const source = frameStream(near);
    const destination = frameStream(far);
    const reading = source.read();
    const closing = source.close();
    await destination.write({ type: 'ping', id: 1 });
    await destination.write({ type: 'ping', id: 2 });
    expect((await reading)?.frame).toEqual({ type: 'ping', id: 1 });
    await Promise.all([closing, destination.close()]);
    expect(await source.read()).toBeNull();
    expect(await destination.read()).toBeNull();
  });

  test('close lets a peer that still sends read our last words, though nobody here reads on', async () => {
    const [near, far] = memoryPair();
    const source = frameStream(near);
    const destination = frameStream(far);
    const flooding = (async () => {
      for (;;) await source.write(pages, [new Uint8Array(100_000)]);
    })();
    const flooded = expect(flooding).rejects.toMatchObject({ code: 'GODWIT_INVALID_STATE' });
    // A frame has been read, and its payload never is.
    await destination.read();
    await destination.write({ type: 'error', code: 'GODWIT_INTERNAL', message: 'last words', retry: false });
    const closing = destination.close();
    expect((await source.read())?.frame.type).toBe('error');
    await Promise.all([source.close(), closing]);
    await flooded;
    await expect(destination.skipPayload()).rejects.toMatchObject({ code: 'GODWIT_INVALID_STATE' });
  });

  test('close gives up on a peer that never ends its direction', async () => {
    const [near, far] = memoryPair();
    const source = frameStream(near, { lingerMs: 20 });
    await source.close();
    await expect(far.write([new Uint8Array(1)])).rejects.toMatchObject({ code: 'GODWIT_LINK_LOST' });
  });

  test('abort fails what is pending with its reason', async () => {
    const [near] = memoryPair();
    const stream = frameStream(near);
    const reason = new GodwitError('GODWIT_CANCELLED', 'enough');
    const reading = stream.read();
    const writing = stream.write(pages, [new Uint8Array(1 << 20)]);
    stream.abort(reason);
    await expect(reading).rejects.toBe(reason);
    await expect(writing).rejects.toBe(reason);
    await expect(stream.write({ type: 'go', attempt: 1 })).rejects.toBe(reason);
    await stream.close();
  });
});
