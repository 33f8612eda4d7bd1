import {
  FRAMES_WITH_PAYLOAD,
  type Frame,
  type FrameName,
  GodwitError,
  HELLO_STAGES,
  MOVED_RUN_STATES,
  RESUMED_STATES,
} from '@godwit/core';
import { frameStream } from '@godwit/transport';
import { expect, jest, test } from '@jest/globals';
import fc from 'fast-check';
import { Unpackr } from 'msgpackr';
import { playing, recording } from './byte-streams.js';

jest.setTimeout(60_000);

const uint = fc.oneof(fc.nat(300), fc.nat(), fc.maxSafeNat());
const name = fc.string({ maxLength: 20 });
const migrationId = fc
  .array(fc.constantFrom(...'0123456789abcdef'), { minLength: 32, maxLength: 32 })
  .map((digits) => digits.join(''));
const runs = fc.array(fc.tuple(uint, uint), { maxLength: 30 }).map((pairs) => pairs.flat());
const description = fc
  .jsonValue({ maxDepth: 4 })
  .map((value) => JSON.parse(JSON.stringify(value).replaceAll('__proto__', 'proto')));

const duration = fc.double({ min: 0, max: 1e9, noNaN: true });
const sequences = fc.array(uint, { maxLength: 4 });
const names = fc.array(name, { maxLength: 4 });
const block = fc.record(
  {
    ...{ id: name, guestPhysicalAddress: uint, byteLength: uint, identity: name },
    ...{ shared: fc.constant(true as const), readOnly: fc.constant(true as const) },
  },
  { requiredKeys: ['id', 'guestPhysicalAddress', 'byteLength', 'identity'] },
);
const named = fc.oneof(
  fc.record({ block: uint, runs }),
  fc.record({ block: uint, runs, firstPage: uint, words: fc.array(fc.nat(0xffff_ffff), { maxLength: 40 }) }),
);
const device = fc.record({ id: name, version: uint, stateBytes: uint });
const differences = fc.array(fc.tuple(uint, uint), { maxLength: 16 }).map((pairs) => pairs.flat());

/** The fields of each frame, without its type. */
const FIELDS: { readonly [N in FrameName]: fc.Arbitrary<Omit<Extract<Frame, { type: N }>, 'type'>> } = {
  hello: fc.record({
    minimumVersion: uint,
    maximumVersion: uint,
    migrationId,
    software: name,
    pageSize: uint,
    blocks: fc.array(block, { maxLength: 4 }),
    devices: fc.array(device, { maxLength: 4 }),
    features: names,
    pageChannels: fc.nat(1024),
    description,
    connection: uint,
    stage: fc.constantFrom(...HELLO_STAGES),
    attempt: uint,
  }),
  welcome: fc.record({
    version: uint,
    features: names,
    software: name,
    maximumPayload: uint,
    incarnation: migrationId,
    maximumDeviceState: uint,
  }),
  error: fc.record({ code: name, message: fc.string(), retry: fc.boolean() }),
  attach: fc.record({ migrationId, index: fc.nat(1023), connection: uint }),
  pages: fc.record({ round: uint, block: uint, runs }),
  zeroPages: fc.record({ round: uint, block: uint, runs }),
  roundEnd: fc.record({ round: uint, pages: uint }),
  roundAck: fc.record({ round: uint, pages: uint }),
  device: fc.record(
    { device: uint, sequence: uint, last: fc.boolean(), attempt: uint, resets: uint },
    { requiredKeys: ['device', 'sequence', 'last', 'attempt'] },
  ),
  switchover: fc.record(
    { round: uint, attempt: uint, runState: fc.constantFrom(...MOVED_RUN_STATES), deviceSequences: sequences },
    { requiredKeys: ['round', 'attempt', 'runState'] },
  ),
  ready: fc.record({ attempt: uint, loadMs: duration }),
  go: fc.record({ attempt: uint }),
  running: fc.record({ resumeMs: duration, sinceReadyMs: duration }),
  digests: fc.record({ block: uint, runs }),
  digestsEnd: fc.record({}),
  verified: fc.record({ pagesCompared: uint, pagesDifferent: uint, differences }),
  ping: fc.record({ id: uint }),
  pong: fc.record({ id: uint }),
  resumed: fc.record({
    state: fc.constantFrom(...RESUMED_STATES),
    round: uint,
    deviceSequences: sequences,
    deviceResets: sequences,
    incarnation: migrationId,
    resumeMs: duration,
    sinceReadyMs: duration,
  }),
  received: named,
  released: fc.record({}),
  deltaPages: fc.record({ round: uint, block: uint, runs }),
  compressedPages: fc.record({ round: uint, block: uint, runs, encoding: name }),
  prepare: fc.record({ attempt: uint, deviceSequences: sequences }),
  prepared: fc.oneof(
    fc.record({ incarnation: migrationId, attempt: uint, deviceSequences: sequences }),
    fc.record({
      incarnation: migrationId,
      attempt: uint,
      deviceSequences: sequences,
      load: fc.oneof(fc.constant([]), fc.array(duration, { minLength: 6, maxLength: 6 })),
      resume: fc.oneof(fc.constant([]), fc.array(duration, { minLength: 3, maxLength: 3 })),
    }),
  ),
  back: fc.record({ attempt: uint }),
  backAck: fc.record({ attempt: uint, deviceResets: sequences }),
  owed: named,
  loaded: fc.record({ device: uint, sequence: uint, attempt: uint }, { requiredKeys: ['device', 'sequence'] }),
  probe: fc.record({}),
  awaitPieces: fc.record({ id: uint, attempt: uint, deviceSequences: sequences }),
  arrived: fc.record({ id: uint }),
  loadEarly: fc.record({ attempt: uint, device: uint, deviceSequences: sequences }),
  missing: named,
  requestPages: fc.record({ block: uint, page: uint, pages: uint }),
  whole: fc.constant({}),
};

const frames = fc.oneof(
  ...Object.entries(FIELDS).map(([type, fields]: [string, fc.Arbitrary<object>]) =>
    fields.map((values) => ({ ...values, type }) as Frame),
  ),
);

const payload = fc.array(
  fc.oneof(
    fc.uint8Array({ maxLength: 40 }),
    fc.nat(150_000).map((size) => new Uint8Array(size).map((_, i) => i * 7 + size)),
  ),
  { maxLength: 6 },
);
const smallPayload = fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 3 });
const small = fc.array(fc.tuple(frames, smallPayload), { maxLength: 6 });
const sent = fc.array(fc.tuple(frames, payload), { maxLength: 6 });
const sizes = fc.array(fc.oneof(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 300_000 })), {
  minLength: 1,
  maxLength: 20,
});

function cycle(list: readonly number[]): () => number {
  let at = 0;
  return () => list[at++ % list.length] as number;
}

async function write(list: readonly (readonly [Frame, readonly Uint8Array[]])[]): Promise<Uint8Array> {
  const carrier = recording();
  const stream = frameStream(carrier);
  for (const [frame, chunks] of list) {
    await (FRAMES_WITH_PAYLOAD.has(frame.type) ? stream.write(frame, chunks) : stream.write(frame));
  }
  return carrier.bytes();
}

test('any frames in any chunks, carried in any pieces, are read back the same into any chunks', async () => {
  await fc.assert(
    fc.asyncProperty(sent, sizes, sizes, async (list, pieces, cuts) => {
      const stream = frameStream(playing(await write(list), cycle(pieces)));
      const nextCut = cycle(cuts);
      for (const [frame, chunks] of list) {
        const received = await stream.read();
        expect(received?.frame).toEqual(frame);
        const whole = new Uint8Array(received?.payloadBytes ?? 0);
        const into: Uint8Array[] = [];
        for (let at = 0; at < whole.length; ) {
          const size = Math.min(nextCut(), whole.length - at);
          into.push(whole.subarray(at, at + size));
          at += size;
        }
        await stream.readPayload(into);
        const expected = FRAMES_WITH_PAYLOAD.has(frame.type) ? Buffer.concat(chunks) : Buffer.alloc(0);
        expect(expected.equals(whole)).toBe(true);
      }
      expect(await stream.read()).toBeNull();
    }),
    { numRuns: 100 },
  );
});

test('a stream is plain MessagePack: a generic decoder finds lengths, arrays and payloads, and nothing else', async () => {
  const decoder = new Unpackr({ useRecords: false, mapsAsObjects: true });
  await fc.assert(
    fc.asyncProperty(small, async (list) => {
      const wire = await write(list);
      const objects: unknown[] = wire.length === 0 ? [] : decoder.unpackMultiple(wire);
      let at = 0;
      for (const [frame, chunks] of list) {
        expect(typeof objects[at++]).toBe('number');
        expect(Array.isArray(objects[at++])).toBe(true);
        if (FRAMES_WITH_PAYLOAD.has(frame.type)) {
          expect(Buffer.concat(chunks).equals(objects[at++] as Uint8Array)).toBe(true);
        }
      }
      expect(at).toBe(objects.length);
    }),
    { numRuns: 60 },
  );
});

test('a damaged stream gives frames or a GodwitError, never anything else, and never much memory', async () => {
  const mutation = fc.record({
    at: fc.nat(),
    byte: fc.nat(255),
    kind: fc.constantFrom('flip', 'insert', 'delete', 'cut'),
  });
  await fc.assert(
    fc.asyncProperty(
      small,
      fc.array(mutation, { minLength: 1, maxLength: 5 }),
      sizes,
      async (list, mutations, pieces) => {
        let wire = await write(list);
        for (const { at, byte, kind } of mutations) {
          // Damage the headers, where there is something to misread.
          const place = at % Math.max(1, Math.min(wire.length, 400));
          if (kind === 'flip') wire[place] = byte;
          else if (kind === 'insert')
            wire = Uint8Array.from([...wire.subarray(0, place), byte, ...wire.subarray(place)]);
          else if (kind === 'delete') wire = Uint8Array.from([...wire.subarray(0, place), ...wire.subarray(place + 1)]);
          else wire = wire.subarray(0, place);
        }
        let largest = 0;
        const stream = frameStream(playing(wire, cycle(pieces)), {
          maximumHeaderBytes: 64 * 1024,
          maximumPayloadBytes: 1 << 20,
        });
        try {
          for (;;) {
            const received = await stream.read();
            if (received === null) break;
            largest = Math.max(largest, received.payloadBytes);
            await stream.skipPayload();
          }
        } catch (error) {
          if (!GodwitError.is(error)) throw error;
          expect(['GODWIT_BAD_STREAM', 'GODWIT_LIMIT_EXCEEDED', 'GODWIT_LINK_LOST']).toContain(error.code);
        }
        expect(largest).toBeLessThanOrEqual(1 << 20);
      },
    ),
    { numRuns: 1_000 },
  );
});

test('random bytes behind a valid length are refused, or happen to be a frame', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 200 }), async (header) => {
      const wire = Uint8Array.from([0xce, 0, 0, 0, header.length, ...header]);
      try {
        await frameStream(playing(wire)).read();
      } catch (error) {
        if (!GodwitError.is(error)) throw error;
      }
    }),
    { numRuns: 2_000 },
  );
});

test('deep nesting neither crashes nor passes', async () => {
  const depth = 100_000;
  const header = new Uint8Array(depth).fill(0x91);
  const wire = Uint8Array.from([0xce, 0, depth >> 16, (depth >> 8) & 0xff, depth & 0xff, ...header]);
  await expect(frameStream(playing(wire)).read()).rejects.toMatchObject({
    code: 'GODWIT_BAD_STREAM',
    message: expect.stringContaining('nested'),
  });
});

test.each([
  { of: 'nothing', value: [0xc0], most: 2 ** 18 - 2 },
  { of: 'empty arrays', value: [0x90], most: 2 ** 18 - 2 },
  // Decoded, these take five times as much.
  { of: 'empty bins', value: [0xc4, 0], most: Math.floor((2 ** 18 - 2) / 5) },
])('a header of $most values of $of is looked at, one of more is not decoded', async ({ value, most }) => {
  for (const [count, code] of [
    [most, 'GODWIT_BAD_STREAM'],
    [most + 1, 'GODWIT_LIMIT_EXCEEDED'],
  ] as const) {
    const header = Buffer.concat([
      Uint8Array.of(0x92, 1, 0xdd, 0, 0, 0, 0),
      Buffer.alloc(count * value.length, Uint8Array.from(value)),
    ]);
    header.writeUInt32BE(count, 3);
    const length = Buffer.alloc(5, 0xce);
    length.writeUInt32BE(header.length, 1);
    await expect(frameStream(playing(Buffer.concat([length, header]))).read()).rejects.toMatchObject({ code });
  }
});
