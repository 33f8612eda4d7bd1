import { type FrameStream, GodwitError, HANDSHAKE_TIMEOUT_MS, type LinkListener } from '@godwit/core';
import { type ListenOptions, listenOn, memory, type Transport, tcp } from '@godwit/transport';
import { afterEach, describe, expect, jest, test } from '@jest/globals';
import { attached, dropped, finish, hello, ID, idOf, type Met, meet, never, pending, refusal } from './link-peers.js';

jest.setTimeout(30_000);

const over = new GodwitError('GODWIT_CANCELLED', 'the test is over');
const open: LinkListener[] = [];

afterEach(async () => {
  jest.useRealTimers();
  await Promise.all(open.splice(0).map((links) => links.close()));
});

interface Wiring {
  readonly links: LinkListener;
  readonly transport: Transport;
  /** Codes and messages of those that were refused. */
  readonly refused: string[];
}

const wirings: Record<string, (options?: ListenOptions) => Promise<Wiring>> = {
  async memory(options) {
    const transport = memory({ bufferBytes: 1024 });
    const refused: string[] = [];
    const links = await listenOn(transport, { ...options, onRefused: (error) => refused.push(error.message) });
    open.push(links);
    return { links, transport, refused };
  },
  async tcp(options) {
    const refused: string[] = [];
    const onRefused = (error: GodwitError): void => void refused.push(error.message);
    const links = await listenOn(tcp({ port: 0 }), { ...options, onRefused });
    open.push(links);
    return { links, transport: tcp({ port: links.listener.port }), refused };
  },
};

/** Opens this many silent streams, all of which the listener has room for; resolves once their time is up. */
async function timePasses(transport: Transport, streams: number): Promise<void> {
  const silent = await Promise.all(Array.from({ length: streams }, () => pending(transport)));
  const told = await Promise.all(silent.map(({ stream }) => refusal(stream)));
  expect(new Set(told.map(({ code }) => code))).toEqual(new Set(['GODWIT_TIMEOUT']));
}

/** Every channel of the source comes out at its own index. */
async function carries({ pageChannels, incoming }: Met, migrationId = ID): Promise<readonly FrameStream[]> {
  const taken = (await incoming.pageChannels(migrationId, pageChannels.length, never)) as readonly FrameStream[];
  await Promise.all(
    pageChannels.map(async (channel, index) => {
      await channel.write({ type: 'roundEnd', round: index, pages: 0 });
      expect((await taken[index]?.read())?.frame).toMatchObject({ type: 'roundEnd', round: index });
    }),
  );
  return taken;
}

function drop(...streams: readonly FrameStream[]): void {
  for (const stream of streams) stream.abort(over);
}

for (const [name, wire] of Object.entries(wirings)) {
  describe(`page channels over ${name},`, () => {
    test('that a hello has announced have no timer, and are no pending connections', async () => {
      const room = 41;
      const { links, transport, refused } = await wire({ handshakeTimeoutMs: 1_000, maximumPending: room });
      const met = await meet(links, transport, room - 1);
      await timePasses(transport, room);
      const taken = await carries(met);
      expect(refused).toHaveLength(room);
      await finish(met.control, met.incoming.control, ...met.pageChannels, ...taken);
    });

    test('of three sources with 64 each find their migrations, with defaults', async () => {
      const { links, transport, refused } = await wire();
      const ids = [1, 2, 3].map(idOf);
      // All connect and say hello at the same time; the VMs are built later.
      const met = await Promise.all(ids.map((migrationId) => meet(links, transport, 64, { migrationId })));
      const byId = new Map<string, Met>();
      for (const one of met) {
        const received = await one.incoming.control.read();
        if (received?.frame.type === 'hello') byId.set(received.frame.migrationId, one);
      }
      expect(byId.size).toBe(3);
      for (const [at, migrationId] of ids.entries()) {
        const { control, pageChannels } = met[at] as Met;
        const { incoming } = byId.get(migrationId) as Met;
        drop(control, incoming.control, ...(await carries({ control, pageChannels, incoming }, migrationId)));
        drop(...pageChannels);
      }
      expect(refused).toEqual([]);
    });

    test('that come after their hello join it', async () => {
      const { links, transport } = await wire();
      const { stream: control } = await pending(transport);
      await control.write(hello(2));
      const incoming = await links.accept(never);
      const waiting = incoming.pageChannels(ID, 2, never);
      const pageChannels = [await attached(transport, 1), await attached(transport, 0)].reverse();
      const taken = (await waiting) as readonly FrameStream[];
      await pageChannels[1]?.write({ type: 'roundEnd', round: 11, pages: 0 });
      expect((await taken[1]?.read())?.frame).toMatchObject({ round: 11 });
      drop(control, incoming.control, ...pageChannels, ...taken);
    });

    test('whose peer has left make room for the next, after the hello too', async () => {
      const { links, transport, refused } = await wire();
      const { stream: control } = await pending(transport);
      await control.write(hello(2));
      const incoming = await links.accept(never);
      const gone = await attached(transport, 0);
      // Resolves when the listener has ended its direction too.
      await gone.close();
      const pageChannels = [await attached(transport, 0), await attached(transport, 1)];
      drop(...(await carries({ control, pageChannels, incoming })), control, incoming.control, ...pageChannels);
      expect(refused).toEqual([]);
    });

    test('bring all that was sent while they waited, frames and payloads', async () => {
      const { links, transport } = await wire();
      const met = await meet(links, transport, 2);
      const contents = Uint8Array.from({ length: 300_000 }, (_, at) => at * 7);
      const writing = met.pageChannels.map(async (channel) => {
        await channel.write({ type: 'roundEnd', round: 3, pages: 0 });
        await channel.write({ type: 'pages', round: 4, block: 0, runs: [0, 1] }, [contents]);
      });
      // A second link of somebody else goes all the way meanwhile: what was sent has come.
      const other = await meet(links, transport, 1, { migrationId: idOf(5) });
      drop(other.control, other.incoming.control, ...other.pageChannels, ...(await carries(other, idOf(5))));
      const taken = (await met.incoming.pageChannels(ID, 2, never)) as readonly FrameStream[];
      for (const channel of taken) {
        expect((await channel.read())?.frame).toMatchObject({ type: 'roundEnd', round: 3 });
        expect(await channel.read()).toMatchObject({ frame: { type: 'pages', round: 4 }, payloadBytes: 300_000 });
        const into = new Uint8Array(300_000);
        await channel.readPayload([into]);
        expect(Buffer.compare(into, contents)).toBe(0);
      }
      await Promise.all(writing);
      await finish(met.control, met.incoming.control, ...met.pageChannels, ...taken);
    });

    const ends: Record<string, (met: Met) => unknown> = {
      'is refused': async ({ incoming: { control } }) => {
        await control.write({ type: 'error', code: 'GODWIT_PREPARE_FAILED', message: 'no room', retry: false });
        await control.close();
      },
      'is dropped': ({ incoming }) => incoming.control.abort(over),
      'is left by its source': ({ control }) => control.close(),
      'breaks at its source': ({ control }) => control.abort(over),
    };
    for (const [how, end] of Object.entries(ends)) {
      test(`are dropped when their link ${how}, and the reason is on the control stream alone`, async () => {
        const { links, transport, refused } = await wire();
        const met = await meet(links, transport, 3);
        if (how === 'is refused' || how === 'is dropped') {
          // Whoever has read on notices by itself when the source leaves, and says so by letting go of the stream.
          await met.control.write({ type: 'ping', id: 1 });
          await met.incoming.control.read();
          expect((await met.incoming.control.read())?.frame).toMatchObject({ type: 'ping' });
        }
        const ending = end(met);
        await Promise.all(met.pageChannels.map((channel) => dropped(channel)));
        await expect(met.incoming.pageChannels(ID, 3, never)).rejects.toMatchObject({ message: expect.anything() });
        if (how === 'is refused') expect(await refusal(met.control)).toMatchObject({ message: 'no room' });
        drop(met.control, met.incoming.control);
        await ending;
        expect(refused).toEqual([]);
      });
    }

    test('of an older connection are dropped when a later hello of the migration comes', async () => {
      const { links, transport, refused } = await wire();
      const first = await meet(links, transport, 2);
      const other = await meet(links, transport, 2, { migrationId: idOf(9) });
      const second = await meet(links, transport, 2, { connection: 2 });
      await Promise.all(first.pageChannels.map((channel) => dropped(channel)));
      await expect(first.incoming.pageChannels(ID, 2, never)).rejects.toMatchObject({
        code: 'GODWIT_LINK_LOST',
        message: expect.stringContaining('connection 2 of the source takes the place of connection 1'),
        retry: true,
      });
      // One that comes late has no part in what is newer; what becomes of it is for the engine to say.
      const { stream: late } = await pending(transport);
      await late.write(hello(0));
      const lateLink = await links.accept(never);
      drop(first.control, first.incoming.control, late, lateLink.control);
      // Nor has another migration.
      drop(...(await carries(other, idOf(9))), other.control, other.incoming.control, ...other.pageChannels);
      drop(...(await carries(second)), second.control, second.incoming.control, ...second.pageChannels);
      expect(refused).toEqual([]);
    });

    test('a claim that waits fails with what ends its link', async () => {
      const { links, transport } = await wire();
      const { stream: control } = await pending(transport);
      await control.write(hello(2));
      const incoming = await links.accept(never);
      const waiting = incoming.pageChannels(ID, 2, never);
      await expect(incoming.pageChannels(ID, 2, never)).rejects.toMatchObject({ code: 'GODWIT_INVALID_STATE' });
      await expect(incoming.pageChannels(ID, 3, never)).rejects.toMatchObject({ code: 'GODWIT_INVALID_ARGUMENT' });
      incoming.control.abort(over);
      await expect(waiting).rejects.toBe(over);
      drop(control);
    });

    test('are taken once', async () => {
      const { links, transport } = await wire();
      const met = await meet(links, transport, 1);
      const taken = await carries(met);
      await expect(met.incoming.pageChannels(ID, 1, never)).rejects.toMatchObject({
        code: 'GODWIT_INVALID_STATE',
        message: expect.stringContaining('taken already'),
      });
      // The link's end is not theirs any more: they are the migration's.
      met.incoming.control.abort(over);
      await met.pageChannels[0]?.write({ type: 'roundEnd', round: 5, pages: 0 });
      expect((await taken[0]?.read())?.frame).toMatchObject({ round: 5 });
      drop(met.control, ...met.pageChannels, ...taken);
    });

    test('may end, when the migration is over, without ending the control stream', async () => {
      const { links, transport } = await wire();
      const met = await meet(links, transport, 2);
      const taken = await carries(met);
      for (const stream of taken) void stream.close();
      for (const channel of met.pageChannels) expect(await channel.read()).toBeNull();
      await met.incoming.control.write({ type: 'running', resumeMs: 1, sinceReadyMs: 1 });
      expect((await met.control.read())?.frame).toMatchObject({ type: 'running' });
      await finish(...met.pageChannels, met.control, met.incoming.control);
    });

    test('that are complete outlive the listener; others are waited for no longer', async () => {
      const { links, transport } = await wire();
      const whole = await meet(links, transport, 2);
      const { stream: control } = await pending(transport);
      await control.write(hello(2, idOf(2)));
      const incoming = await links.accept(never);
      const lacking = incoming.pageChannels(idOf(2), 2, never);
      const failed = expect(lacking).rejects.toMatchObject({ code: 'GODWIT_INVALID_STATE' });
      await links.close();
      await failed;
      drop(...(await carries(whole)), whole.control, whole.incoming.control, ...whole.pageChannels);
      drop(control, incoming.control);
    });

    test('a source that has left before anybody took its link is handed to nobody', async () => {
      const { links, transport } = await wire({ maximumPending: 2 });
      const { stream: control } = await pending(transport);
      const channel = await attached(transport, 0);
      await control.write(hello(1));
      // Its channel is dropped as soon as the listener knows that it is gone.
      const gone = dropped(channel);
      await control.close();
      await gone;
      const met = await meet(links, transport, 1, { migrationId: idOf(7) });
      expect((await met.incoming.control.read())?.frame).toMatchObject({ migrationId: idOf(7) });
      drop(met.control, met.incoming.control, ...met.pageChannels);
    });

    test('a link that nobody has taken is void once a later one of its migration has come', async () => {
      const { links, transport } = await wire();
      const { stream: first } = await pending(transport);
      await first.write(hello(0));
      const { stream: second } = await pending(transport);
      await second.write(hello(0, ID, 2));
      expect(await refusal(first)).toMatchObject({ code: 'GODWIT_LINK_LOST', retry: true });
      const incoming = await links.accept(never);
      expect((await incoming.control.read())?.frame).toMatchObject({ connection: 2 });
      drop(second, incoming.control);
    });

    test('a hello with more than 64 page channels is refused, and its channels with it', async () => {
      const { transport, refused } = await wire();
      const channel = await attached(transport, 63);
      const { stream } = await pending(transport);
      await stream.write(hello(65));
      expect(await refusal(stream)).toMatchObject({
        code: 'GODWIT_LIMIT_EXCEEDED',
        message: expect.stringContaining('the source wants 65 page channels; there may be from 0 to 64'),
        retry: false,
      });
      await dropped(channel);
      const beyond = await attached(transport, 64, { migrationId: idOf(1) });
      expect(await refusal(beyond)).toMatchObject({ code: 'GODWIT_PROTOCOL', retry: false });
      expect(refused).toHaveLength(2);
    });

    test('the same hello twice is refused, and the first goes on', async () => {
      const { links, transport } = await wire();
      const met = await meet(links, transport, 2);
      const { stream } = await pending(transport);
      await stream.write(hello(2));
      expect(await refusal(stream)).toMatchObject({
        code: 'GODWIT_PROTOCOL',
        message: expect.stringContaining('has said hello already'),
      });
      drop(...(await carries(met)), met.control, met.incoming.control, ...met.pageChannels);
    });

    test('an attach that is padded to make its stream hold more is refused', async () => {
      const { transport } = await wire();
      const { carrier, stream } = await pending(transport);
      const padding = 20_000;
      const id = Buffer.from(ID, 'latin1');
      const header = Buffer.concat([
        Buffer.from([0x95, 4, 0xd9, id.length]),
        id,
        Buffer.from([0, 1, 0xc5, padding >> 8, padding & 255]),
        Buffer.alloc(padding),
      ]);
      const head = Buffer.from([0xce, 0, 0, header.length >> 8, header.length & 255]);
      await carrier.write([head, header]);
      expect(await refusal(stream)).toMatchObject({
        code: 'GODWIT_LIMIT_EXCEEDED',
        message: expect.stringContaining('an attach frame has at most 16384 bytes'),
      });
    });
  });
}

describe('what peers can make a listener hold', () => {
  test('1 024 page channels without a hello; the next may try again', async () => {
    const { links, transport, refused } = await (wirings['memory'] as (typeof wirings)[string])();
    const early: FrameStream[] = [];
    for (let at = 0; at < 1024; at++) {
      early.push(await attached(transport, at % 64, { migrationId: idOf(100 + Math.floor(at / 64)) }));
    }
    expect(await refusal(await attached(transport, 0))).toMatchObject({ code: 'GODWIT_LIMIT_EXCEEDED', retry: true });
    // A hello takes its own out of the number.
    const { stream: control } = await pending(transport);
    await control.write(hello(64, idOf(100)));
    const incoming = await links.accept(never);
    const next = await attached(transport, 0);
    const other = await meet(links, transport, 1, { migrationId: idOf(7) });
    expect(refused).toHaveLength(1);
    drop(other.control, other.incoming.control, ...other.pageChannels);
    drop(...((await incoming.pageChannels(idOf(100), 64, never)) as readonly FrameStream[]), incoming.control);
    drop(control, next, ...early);
    expect(refused).toEqual(['1024 page channels wait for their hello here already; try again later']);
  });

  test('64 hellos with page channels that nobody has taken; the next may try again', async () => {
    const { links, transport, refused } = await (wirings['memory'] as (typeof wirings)[string])();
    const met: Met[] = [];
    for (let at = 0; at < 64; at++) met.push(await meet(links, transport, 1, { migrationId: idOf(at) }));
    const { stream } = await pending(transport);
    await stream.write(hello(1));
    expect(await refusal(stream)).toMatchObject({ code: 'GODWIT_LIMIT_EXCEEDED', retry: true });
    expect(refused).toEqual(['64 migrations with 64 page channels wait here already; try again later']);
    // Without page channels, the engine's own limit counts.
    const plain = await meet(links, transport, 0);
    met.shift()?.incoming.control.abort(over);
    const next = await meet(links, transport, 1, { migrationId: idOf(999) });
    drop(...(await carries(next, idOf(999))));
    for (const { control, pageChannels, incoming } of [plain, next, ...met]) {
      drop(control, incoming.control, ...pageChannels);
    }
  });
});

test('hellos that announce 1 024 page channels; a later connection of one of them takes its room', async () => {
  const { links, transport, refused } = await (wirings['memory'] as (typeof wirings)[string])();
  const sides: FrameStream[] = [];
  const say = async (channels: number, migrationId: string, connection = 1): Promise<FrameStream> => {
    const { stream } = await pending(transport);
    await stream.write(hello(channels, migrationId, connection));
    sides.push(stream);
    return stream;
  };
  const accept = async (): Promise<void> => void sides.push((await links.accept(never)).control);
  for (let at = 0; at < 16; at++) {
    await say(64, idOf(at));
    await accept();
  }
  expect(await refusal(await say(1, ID))).toMatchObject({ code: 'GODWIT_LIMIT_EXCEEDED', retry: true });
  await say(64, idOf(3), 2);
  await accept();
  drop(...sides);
  expect(refused).toEqual(['16 migrations with 1024 page channels wait here already; try again later']);
});

test('64 links wait to be accepted; the next may try again, and its page channels are dropped', async () => {
  const { links, transport, refused } = await (wirings['memory'] as (typeof wirings)[string])();
  const waiting: FrameStream[] = [];
  for (let at = 0; at < 64; at++) {
    const { stream } = await pending(transport);
    await stream.write(hello(0, idOf(at)));
    waiting.push(stream);
  }
  const channel = await attached(transport, 0);
  const { stream } = await pending(transport);
  await stream.write(hello(1));
  expect(await refusal(stream)).toMatchObject({ code: 'GODWIT_LIMIT_EXCEEDED', retry: true });
  await dropped(channel);
  expect(refused).toEqual(['64 links wait here already; try again later']);
  const first = await links.accept(never);
  expect((await first.control.read())?.frame).toMatchObject({ migrationId: idOf(0) });
  drop(first.control, ...waiting);
});

test('the listener waits for a first frame as long as the engine does for its hello', async () => {
  const transport = memory();
  jest.useFakeTimers({ doNotFake: ['nextTick', 'setImmediate', 'queueMicrotask'] });
  const links = await listenOn(transport);
  open.push(links);
  const { stream } = await pending(transport);
  const early = await attached(transport, 0);
  const heard = Promise.all([refusal(stream), refusal(early)]);
  let told = false;
  void heard.then(() => {
    told = true;
  });
  expect(HANDSHAKE_TIMEOUT_MS).toBe(30_000);
  await jest.advanceTimersByTimeAsync(HANDSHAKE_TIMEOUT_MS - 1);
  await new Promise((resolve) => setImmediate(resolve));
  expect(told).toBe(false);
  await jest.advanceTimersByTimeAsync(1);
  for (const { code, message } of await heard) {
    expect({ code, message }).toEqual({
      code: 'GODWIT_TIMEOUT',
      message: expect.stringContaining('handshakeTimeoutMs = 30000'),
    });
  }
});
