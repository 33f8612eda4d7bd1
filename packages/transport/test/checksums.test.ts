import { existsSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type Frame,
  type FrameStream,
  GodwitError,
  type LinkConnector,
  type MigrateOptions,
  migrate,
  receive,
} from '@godwit/core';
import { memoryLink, ToyVm } from '@godwit/core/testing';
import {
  type ByteStream,
  connectTo,
  file,
  frameStream,
  listenOn,
  memory,
  memoryPair,
  type Transport,
} from '@godwit/transport';
import { crc32, tableCrc32 } from '@godwit/transport/framing';
import { type Fault, type FaultPlan, faulty, faultyStream } from '@godwit/transport/testing';
import { describe, expect, jest, test } from '@jest/globals';
import { playing, recording } from './byte-streams.js';

jest.setTimeout(240_000);

const DOCUMENT = readFileSync(new URL('../../../docs/wire-format.md', import.meta.url), 'utf8');
const VECTOR = Buffer.from(vectorOf(DOCUMENT), 'hex');
const PAGE = 4096;
const PAGES = 24;
/** Migrations for each kind of fault. */
const CASES = 24;
const BLOCKS = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE }];

interface Sent {
  readonly frame: Frame;
  readonly payload?: Uint8Array;
}

const EXCHANGE: readonly Sent[] = [
  { frame: { type: 'ping', id: 7 } },
  { frame: { type: 'pages', round: 1, block: 0, runs: [0, 2] }, payload: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8) },
  { frame: { type: 'go', attempt: 1 } },
];

async function written(frames: readonly Sent[], checksums: boolean): Promise<Uint8Array> {
  const bytes = recording();
  const stream = frameStream(bytes, { checksums });
  for (const { frame, payload } of frames) await stream.write(frame, payload && [payload]);
  expect(stream.bytesWritten).toBe(bytes.bytes().length);
  return bytes.bytes();
}

function vectorOf(document: string): string {
  const section = document.slice(document.indexOf('## 13. Checksums'));
  return (/```text\n([^`]*)```/.exec(section)?.[1] ?? '').replace(/\s/g, '');
}

/** What a reader hands out, and why it stopped. */
async function handedOut(stream: FrameStream): Promise<{ frames: Sent[]; error: unknown }> {
  const frames: Sent[] = [];
  try {
    for (;;) {
      const received = await stream.read();
      if (received === null) return { frames, error: undefined };
      if (received.payloadBytes === 0) {
        frames.push({ frame: received.frame });
        continue;
      }
      const payload = new Uint8Array(received.payloadBytes);
      await stream.readPayload([payload.subarray(0, 3), payload.subarray(3)]);
      frames.push({ frame: received.frame, payload });
    }
  } catch (error) {
    return { frames, error };
  }
}

test('CRC-32 is the one of IEEE 802.3, also where Node does not have it', () => {
  const digits = new TextEncoder().encode('123456789');
  for (const sum of [crc32, tableCrc32]) {
    expect(sum(digits)).toBe(0xcbf43926);
    expect(sum(digits.subarray(4), sum(digits.subarray(0, 4)))).toBe(0xcbf43926);
    expect(sum(new Uint8Array(), 7)).toBe(7);
  }
  const shared = new Uint8Array(new SharedArrayBuffer(9));
  shared.set(digits);
  expect(crc32(shared)).toBe(0xcbf43926);
});

test('the vector of docs/wire-format.md, in both directions', async () => {
  expect(Buffer.from(await written(EXCHANGE, true)).toString('hex')).toBe(VECTOR.toString('hex'));
  expect(await handedOut(frameStream(playing(VECTOR, () => 3)))).toEqual({ frames: EXCHANGE, error: undefined });
});

/** Where the frames of the vector start, by the faults that strike there. */
async function frameStarts(pieces: readonly Uint8Array[]): Promise<number[]> {
  const starts: number[] = [];
  const faults = [0, 1, 2, 3].map(
    (frame): Fault => ({ kind: 'delay', direction: 'out', at: { frame }, milliseconds: 0 }),
  );
  const plan = {
    faults,
    sleep: async () => {},
    onFault: (_: Fault, __: number, byte: number) => void starts.push(byte),
  };
  const stream = faultyStream(recording(), plan);
  for (const piece of pieces) await stream.write([piece]);
  return starts;
}

test('faults find the frames among their checksums', async () => {
  const starts = await frameStarts([VECTOR]);
  expect(starts.map((at) => VECTOR[at])).toEqual([0xce, 0xce, 0xce]);
  expect(starts[0]).toBe(5);
  expect(await frameStarts(Array.from(VECTOR, (byte) => Uint8Array.of(byte)))).toEqual(starts);
});

test('every bit of an exchange, flipped: nothing that was not sent is handed out, and the end is noticed', async () => {
  for (let bit = 0; bit < VECTOR.length * 8; bit++) {
    const bytes = Uint8Array.from(VECTOR);
    bytes[bit >> 3] = (bytes[bit >> 3] as number) ^ (1 << (bit & 7));
    const { frames, error } = await handedOut(frameStream(playing(bytes)));
    expect(EXCHANGE.slice(0, frames.length)).toEqual(frames);
    expect(GodwitError.is(error)).toBe(true);
    // Only in the mark it can look like something else that was meant.
    if (bit >= 40) expect((error as GodwitError).code).toBe('GODWIT_LINK_LOST');
  }
});

test('a frame that is missing or comes twice is noticed', async () => {
  const starts = [...(await frameStarts([VECTOR])), VECTOR.length];
  for (let i = 0; i + 1 < starts.length - 1; i++) {
    const [from, to] = [starts[i] as number, starts[i + 1] as number];
    for (const bytes of [
      Buffer.concat([VECTOR.subarray(0, from), VECTOR.subarray(to)]),
      Buffer.concat([VECTOR.subarray(0, to), VECTOR.subarray(from)]),
    ]) {
      const { error } = await handedOut(frameStream(playing(bytes)));
      expect(error).toMatchObject({
        code: 'GODWIT_LINK_LOST',
        message: expect.stringMatching(/checksum [0-9a-f]{8}, but/),
      });
    }
  }
});

test('what is malformed although its checksum is right is a bad stream', async () => {
  const header = Uint8Array.of(0x91, 0x7f);
  const length = Uint8Array.of(0xce, 0, 0, 0, 2);
  const one = crc32(length);
  const two = crc32(header, one);
  const word = (sum: number): number[] => [0xd2, sum >>> 24, (sum >>> 16) & 255, (sum >>> 8) & 255, sum & 255];
  const bytes = Uint8Array.of(...word(0), ...length, ...word(one), ...header, ...word(two));
  expect((await handedOut(frameStream(playing(bytes)))).error).toMatchObject({ code: 'GODWIT_BAD_STREAM' });
});

test('memory that changes while it is sent never gives a false alarm, and overlapping writes keep their order', async () => {
  const [near, far] = memoryPair('memory', 5000);
  // Several times the staging buffers, in chunks that fit nowhere.
  const guest = new Uint8Array(1_500_000);
  let writes = 0;
  // The guest writes whenever the destination takes a piece of what is being sent.
  const busy: ByteStream = {
    peer: far.peer,
    write: (chunks) => far.write(chunks),
    read(into, wanted) {
      for (let i = writes % 997; i < guest.length; i += 997) guest[i] = (guest[i] as number) + 1;
      writes++;
      return far.read(into, wanted);
    },
    close: () => far.close(),
    abort: (reason) => far.abort(reason),
  };
  const [source, destination] = [frameStream(near, { checksums: true }), frameStream(busy)];
  const chunks = [guest.subarray(0, 7), guest.subarray(7, 700_001), guest.subarray(700_001)];
  const sending = Promise.all([
    source.write({ type: 'pages', round: 1, block: 0, runs: [0, 1] }, chunks),
    source.write({ type: 'ping', id: 1 }),
    source.write({ type: 'pages', round: 2, block: 0, runs: [0, 1] }, chunks),
    source.write({ type: 'device', device: 0, sequence: 0, last: true, attempt: 0 }, []),
    source.write({ type: 'go', attempt: 1 }),
  ]);
  const closing = source.close();
  sending.catch(() => {});
  const { frames, error } = await handedOut(destination);
  if (error !== undefined) source.abort(new GodwitError('GODWIT_CANCELLED', 'over'));
  expect(error).toBeUndefined();
  await sending;
  expect(frames.map(({ frame }) => frame.type)).toEqual(['pages', 'ping', 'pages', 'device', 'go']);
  expect(writes).toBeGreaterThan(2);
  expect(source.bytesWritten).toBe(destination.bytesRead);
  await Promise.all([destination.close(), closing]);
});

test('a stream that is dropped touches no payload that waits for its turn', async () => {
  const [near] = memoryPair('memory', 5000);
  const source = frameStream(near, { checksums: true });
  let touched = false;
  const later = new Proxy(new Uint8Array(8), {
    get(target, name) {
      if (name !== 'length') touched = true;
      return Reflect.get(target, name, target) as unknown;
    },
  });
  const pages = { type: 'pages', round: 1, block: 0, runs: [0, 1] } as const;
  const writes = [source.write(pages, [new Uint8Array(2 ** 20)]), source.write(pages, [later])];
  const over = new GodwitError('GODWIT_CANCELLED', 'over');
  source.abort(over);
  for (const result of await Promise.allSettled(writes)) expect(result).toEqual({ status: 'rejected', reason: over });
  expect(touched).toBe(false);
  const quiet = frameStream(memoryPair()[0], { checksums: true });
  quiet.abort(over);
  await expect(quiet.write(pages, [later])).rejects.toBe(over);
  expect(touched).toBe(false);
});

test('a peer without checksums is refused; the reason of one that refuses us is heard', async () => {
  const asking = (bytes: Uint8Array): FrameStream => frameStream(playing(bytes), { checksums: true });
  const welcome = {
    type: 'welcome',
    version: 2,
    features: [],
    software: 'old',
    maximumPayload: 65536,
    incarnation: '1'.repeat(32),
    maximumDeviceState: 2 ** 28,
  } as const;
  await expect(asking(await written([{ frame: welcome }], false)).read()).rejects.toMatchObject({
    code: 'GODWIT_UNSUPPORTED',
  });
  const error = { type: 'error', code: 'GODWIT_BAD_STREAM', message: 'what is d2?', retry: false } as const;
  expect((await asking(await written([{ frame: error }], false)).read())?.frame).toEqual(error);
});

test('a stream that can do it for nobody is refused before a page moves', async () => {
  const link = memoryLink();
  const vm = new ToyVm(BLOCKS);
  const without = {
    connect: async (...request: Parameters<typeof link.connector.connect>) => {
      const [{ checksums: _, ...rest }, signal] = request;
      return link.connector.connect(rest, signal);
    },
  };
  await expect(migrate(vm, without, { checksum: true }).result).rejects.toMatchObject({ code: 'GODWIT_UNSUPPORTED' });
  const path = join(tmpdir(), `godwit-checksums-${process.pid}`);
  await expect(migrate(vm, connectTo(file({ path })), { checksum: true }).result).rejects.toMatchObject({
    code: 'GODWIT_UNSUPPORTED',
    message: expect.stringContaining('"checksum"'),
  });
  expect(existsSync(path)).toBe(false);
  expect(vm.running).toBe(true);
});

test('a source that comes back without the checksums it agreed on is refused', async () => {
  const link = memoryLink();
  let connections = 0;
  const forgetful: LinkConnector = {
    connect: async (request, signal) => {
      connections++;
      const made = await link.connector.connect({ ...request, checksums: connections === 1 }, signal);
      return { ...made, control: Object.assign(made.control, { checksums: true }) };
    },
  };
  const vm = new ToyVm(BLOCKS);
  const destination = new ToyVm(BLOCKS, { running: false });
  const incoming = receive(link.listener, { prepare: () => destination });
  incoming.result.catch(() => {});
  const running = migrate(vm, forgetful, { checksum: true, random: () => 0 });
  running.subscribe({
    next: (event) => {
      if (event.type === 'round-start' && connections === 1) link.cut();
    },
    error: () => {},
  });
  await expect(running.result).rejects.toMatchObject({ code: 'GODWIT_PROTOCOL', remote: true });
  await expect(incoming.result).rejects.toMatchObject({ code: 'GODWIT_PROTOCOL' });
  expect([vm.running, destination.running]).toEqual([true, false]);
});

/** Remembers what is written, for the test that nothing changes without checksums. */
function overheard(transport: Transport, bytes: number[]): Transport {
  return {
    ...transport,
    connect: async (signal) => {
      const stream = await transport.connect(signal);
      const write: ByteStream['write'] = (chunks) => {
        bytes.push(chunks[0]?.[0] ?? -1);
        return stream.write(chunks);
      };
      return {
        ...stream,
        peer: stream.peer,
        write,
        read: (...a) => stream.read(...a),
        close: () => stream.close(),
        abort: (r) => stream.abort(r),
      };
    },
  };
}

interface Outcome {
  readonly moved: boolean;
  readonly struck: boolean;
  readonly reconnections: number;
  readonly sourceCode: string | undefined;
}

/** A migration over a faulty transport. Whatever happens: one side runs, and a completed one has every byte right. */
async function migration(faults: readonly Fault[], options: MigrateOptions, seed = 1): Promise<Outcome> {
  const source = new ToyVm(BLOCKS);
  for (let page = 0; page < PAGES; page += 2) source.write(0, page * PAGE, new Uint8Array(PAGE).fill(page + 1));
  const destination = new ToyVm(BLOCKS, { running: false });
  let struck = false;
  const plain = memory();
  const plan: FaultPlan = {
    faults,
    seed,
    onFault: () => {
      struck = true;
    },
  };
  const times = { keepaliveMs: 50, silenceTimeoutMs: 1000 };
  const patience = { handshakeTimeoutMs: 3000, reconnectTimeoutMs: 3000, settleTimeoutMs: 3000, ...times };
  const listener = await listenOn(plain, { handshakeTimeoutMs: 3000, lingerMs: 1000 });
  const incoming = receive(listener, { prepare: () => destination, ...patience });
  incoming.result.catch(() => {});
  let reconnections = 0;
  const running = migrate(source, connectTo(faulty(plain, plan), { lingerMs: 1000 }), {
    ...options,
    ...patience,
    connectTimeoutMs: 3000,
    switchoverTimeoutMs: 3000,
    random: () => 0,
  });
  running.subscribe({
    next: (event) => {
      if (event.type === 'reconnected') reconnections++;
      if (event.type === 'round' && event.round.round === 1) source.write(0, PAGE, new Uint8Array(64).fill(0xee));
    },
    error: () => {},
  });
  const [sent] = await Promise.allSettled([running.result]);
  if (sent?.status === 'rejected') incoming.cancel();
  const [received] = await Promise.allSettled([incoming.result]);
  await listener.close();
  const moved = received?.status === 'fulfilled';
  expect([source.running, destination.running]).toEqual([!moved, moved]);
  if (moved) expect(source.memory.firstDifference(destination.memory)).toBeUndefined();
  const sourceCode = sent?.status === 'rejected' ? (sent.reason as GodwitError).code : undefined;
  return { moved, struck, reconnections, sourceCode };
}

describe('a migration with checksums', () => {
  test.each([0, 2])('over bytes, with %i page channels', async (pageChannels) => {
    const outcome = await migration([], { checksum: true, pageChannels });
    expect(outcome).toEqual({ moved: true, struck: false, reconnections: 0, sourceCode: undefined });
  });

  test('goes on over a new link when a page is changed on its way', async () => {
    const at = { byte: 3000 };
    const outcome = await migration([{ kind: 'corrupt', direction: 'out', at, stream: 0 }], { checksum: true });
    expect(outcome).toEqual({ moved: true, struck: true, reconnections: 1, sourceCode: undefined });
  });

  test.each(['corrupt', 'duplicate', 'truncate'] as const)('is right to the last byte, or fails: %s', async (kind) => {
    const ends = new Map<string, number>();
    for (let seed = 1; seed <= CASES; seed++) {
      const direction = seed % 3 === 0 ? 'in' : 'out';
      const below = seed % 2 === 0 ? 400 : direction === 'in' ? 300 : 55_000;
      const pageChannels = seed % 4 === 1 ? 1 : 0;
      const fault: Fault = { kind, direction, at: { below }, stream: pageChannels > 0 && seed % 8 === 1 ? 1 : 0 };
      const outcome = await migration([fault], { checksum: true, pageChannels }, seed);
      const end = `${outcome.struck ? 'struck' : 'missed'}, ${outcome.sourceCode ?? 'moved'}`;
      ends.set(end, (ends.get(end) ?? 0) + 1);
    }
    const total = [...ends.values()].reduce((sum, count) => sum + count, 0);
    expect(total).toBe(CASES);
    // Most go on over a new link; in the handshake of the first one, the migration ends.
    expect(ends.get('struck, moved') ?? 0).toBeGreaterThan(CASES / 3);
    expect([...ends.keys()].join()).not.toMatch(/INTERNAL|BAD_STREAM|PROTOCOL/);
  });
});

test('without the option nothing changes on the wire', async () => {
  const bytes: number[] = [];
  const transport = overheard(memory(), bytes);
  const listener = await listenOn(transport);
  const destination = new ToyVm(BLOCKS, { running: false });
  const incoming = receive(listener, { prepare: () => destination });
  await migrate(new ToyVm(BLOCKS), connectTo(transport)).result;
  await incoming.result;
  await listener.close();
  expect(new Set(bytes)).toEqual(new Set([0xce]));
});
