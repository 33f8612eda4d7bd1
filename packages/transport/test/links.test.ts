import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type FrameStream, GodwitError, type IncomingLink, type LinkListener } from '@godwit/core';
import { connectTo, type ListenOptions, listenOn, memory, type Transport, tcp, unix } from '@godwit/transport';
import { afterEach, describe, expect, jest, test } from '@jest/globals';
import { finish, hello, ID, never, pending, refusal } from './link-peers.js';

jest.setTimeout(30_000);

interface Wiring {
  readonly links: LinkListener & { readonly address: string };
  readonly transport: Transport;
}

const open: LinkListener[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((links) => links.close()));
});

const wirings: Record<string, (options?: ListenOptions) => Promise<Wiring>> = {
  async memory(options) {
    const transport = memory();
    const links = await listenOn(transport, options);
    open.push(links);
    return { links, transport };
  },
  async tcp(options) {
    const links = await listenOn(tcp({ port: 0 }), options);
    open.push(links);
    return { links, transport: tcp({ port: links.listener.port }) };
  },
  async unix(options) {
    const transport = unix({ path: join(tmpdir(), `godwit-links-${process.pid}.sock`) });
    const links = await listenOn(transport, options);
    open.push(links);
    return { links, transport };
  },
};

for (const [name, wire] of Object.entries(wirings)) {
  describe(`links over ${name}`, () => {
    test('bring the hello, the page channels in order, and frames both ways', async () => {
      const { links, transport } = await wire();
      const accepting = links.accept(never);
      const link = await connectTo(transport).connect({ migrationId: ID, pageChannels: 3, connection: 1 }, never);
      await link.control.write(hello(3));
      const incoming = await accepting;
      expect((await incoming.control.read())?.frame).toEqual(hello(3));
      const channels = await incoming.pageChannels(ID, 3, never);
      expect(channels).toHaveLength(3);
      await Promise.all(
        link.pageChannels
          .map((channel, i) =>
            channel.write({ type: 'pages', round: 1, block: i, runs: [0, 50] }, [new Uint8Array(200_000).fill(i)]),
          )
          .concat(
            channels.map(async (channel, i) => {
              const received = await channel.read();
              expect(received?.frame).toMatchObject({ type: 'pages', block: i });
              const into = new Uint8Array(200_000);
              await channel.readPayload([into]);
              expect(into.every((byte) => byte === i)).toBe(true);
            }),
          ),
      );
      await incoming.control.write({ type: 'roundAck', round: 1, pages: 150 });
      expect((await link.control.read())?.frame.type).toBe('roundAck');
      await finish(link.control, ...link.pageChannels, incoming.control, ...channels);
    });

    test('a silent stream, garbage and a wrong first frame do not block others, and are told why', async () => {
      const { links, transport } = await wire({ handshakeTimeoutMs: 300 });
      const silent = await pending(transport);
      const garbage = await pending(transport);
      await garbage.carrier.write([Buffer.from('GET / HTTP/1.1\r\n\r\n')]);
      const wrong = await pending(transport);
      await wrong.stream.write({ type: 'go', attempt: 1 });
      const link = await connectTo(transport).connect({ migrationId: ID, pageChannels: 0, connection: 1 }, never);
      await link.control.write(hello(0));
      const incoming = await links.accept(never);
      expect(await incoming.pageChannels(ID, 0, never)).toEqual([]);
      expect(await refusal(garbage.stream)).toMatchObject({
        code: 'GODWIT_BAD_STREAM',
        message: expect.stringContaining('HTTP'),
      });
      expect(await refusal(wrong.stream)).toMatchObject({ code: 'GODWIT_PROTOCOL', retry: false });
      expect(await refusal(silent.stream)).toMatchObject({
        code: 'GODWIT_TIMEOUT',
        message: expect.stringContaining('handshakeTimeoutMs = 300'),
      });
      await finish(link.control, incoming.control);
    });

    test('a page channel of an older connection never joins a newer one, whichever comes first', async () => {
      const { links, transport } = await wire({ handshakeTimeoutMs: 400 });
      const early = await pending(transport);
      await early.stream.write({ type: 'attach', migrationId: ID, index: 0, connection: 1 });
      const link = await connectTo(transport).connect({ migrationId: ID, pageChannels: 1, connection: 2 }, never);
      await link.control.write({ ...hello(1), connection: 2 });
      const incoming = await links.accept(never);
      const late = await pending(transport);
      await late.stream.write({ type: 'attach', migrationId: ID, index: 0, connection: 1 });
      const [channel] = await incoming.pageChannels(ID, 1, never);
      await link.pageChannels[0]?.write({ type: 'roundEnd', round: 7, pages: 0 });
      expect((await channel?.read())?.frame).toMatchObject({ round: 7 });
      for (const { stream } of [early, late]) {
        expect(await refusal(stream)).toMatchObject({
          message: expect.stringMatching(/no hello announced page channel 0 of connection 1|attached already/),
        });
      }
      await finish(link.control, ...link.pageChannels, incoming.control, channel as FrameStream);
    });

    test('the operator hears who was refused and why, and not of those who left', async () => {
      const heard: { code: string; peer: string; message: string }[] = [];
      let told = (): void => {};
      const { links, transport } = await wire({
        handshakeTimeoutMs: 400,
        onRefused: ({ code, message }, peer) => {
          heard.push({ code, peer, message });
          told();
          throw new Error('an operator who fails');
        },
      });
      const hearing = async (count: number): Promise<void> => {
        while (heard.length < count) {
          await new Promise<void>((resolve) => {
            told = resolve;
          });
        }
      };
      const left = await pending(transport);
      await left.stream.close();
      const garbage = await pending(transport);
      await garbage.carrier.write([Buffer.from('GET / HTTP/1.1\r\n\r\n')]);
      await hearing(1);
      const wrong = await pending(transport);
      await wrong.stream.write({ type: 'go', attempt: 1 });
      await hearing(2);
      const unclaimed = await pending(transport);
      await unclaimed.stream.write({ type: 'attach', migrationId: ID, index: 0, connection: 1 });
      await hearing(3);
      const link = await connectTo(transport).connect({ migrationId: ID, pageChannels: 0, connection: 1 }, never);
      await link.control.write(hello(1));
      const incoming = await links.accept(never);
      const beyond = await pending(transport);
      await beyond.stream.write({ type: 'attach', migrationId: ID, index: 1, connection: 1 });
      await hearing(4);
      const silent = await pending(transport);
      await hearing(5);
      expect(heard.map(({ code }) => code)).toEqual([
        ...['GODWIT_BAD_STREAM', 'GODWIT_PROTOCOL', 'GODWIT_TIMEOUT', 'GODWIT_PROTOCOL', 'GODWIT_TIMEOUT'],
      ]);
      expect(heard[3]?.message).toContain('page channel 1 of a migration whose hello announced 1');
      for (const { peer } of heard) expect(peer).toContain(name);
      // Whoever is there when the listener ends is dropped, not refused.
      const waiting = await pending(transport);
      await links.close();
      expect(heard).toHaveLength(5);
      const refused = [garbage, wrong, unclaimed, beyond, silent].map(({ stream }) => stream);
      await finish(...refused, waiting.stream, link.control, incoming.control);
    });

    test('page channels that nobody claims, are out of range or come twice are refused', async () => {
      const { links, transport } = await wire({ handshakeTimeoutMs: 400 });
      const link = await connectTo(transport).connect({ migrationId: ID, pageChannels: 1, connection: 1 }, never);
      const unknown = await pending(transport);
      await unknown.stream.write({ type: 'attach', migrationId: 'f'.repeat(32), index: 0, connection: 1 });
      await link.control.write(hello(1));
      const incoming = await links.accept(never);
      const beyond = await pending(transport);
      await beyond.stream.write({ type: 'attach', migrationId: ID, index: 1, connection: 1 });
      const twice = await pending(transport);
      await twice.stream.write({ type: 'attach', migrationId: ID, index: 0, connection: 1 });
      expect(await refusal(beyond.stream)).toMatchObject({
        code: 'GODWIT_PROTOCOL',
        message: expect.stringContaining('announced 1'),
      });
      expect(await refusal(twice.stream)).toMatchObject({
        code: 'GODWIT_PROTOCOL',
        message: expect.stringContaining('attached already'),
      });
      const [channel] = (await incoming.pageChannels(ID, 1, never)) as [FrameStream];
      await (link.pageChannels[0] as FrameStream).write({ type: 'roundEnd', round: 1, pages: 0 });
      expect((await channel.read())?.frame.type).toBe('roundEnd');
      expect(await refusal(unknown.stream)).toMatchObject({ code: 'GODWIT_TIMEOUT' });
      await finish(link.control, ...link.pageChannels, incoming.control, channel);
    });

    test('a reconnection of the same migration gets its own streams', async () => {
      const { links, transport } = await wire();
      const take = async (): Promise<{ incoming: IncomingLink; channel: FrameStream; close(): Promise<void> }> => {
        const link = await connectTo(transport).connect({ migrationId: ID, pageChannels: 1, connection: 1 }, never);
        await link.control.write(hello(1));
        const incoming = await links.accept(never);
        const [channel] = (await incoming.pageChannels(ID, 1, never)) as [FrameStream];
        await (link.pageChannels[0] as FrameStream).write({ type: 'roundEnd', round: 1, pages: 0 });
        return {
          incoming,
          channel,
          close: () => finish(link.control, ...link.pageChannels, incoming.control, channel),
        };
      };
      const first = await take();
      const second = await take();
      expect((await first.channel.read())?.frame.type).toBe('roundEnd');
      expect((await second.channel.read())?.frame.type).toBe('roundEnd');
      await Promise.all([first.close(), second.close()]);
    });

    test('a channel whose peer went away while it waited makes room for the next', async () => {
      const { links, transport } = await wire();
      const gone = await pending(transport);
      await gone.stream.write({ type: 'attach', migrationId: ID, index: 0, connection: 1 });
      await gone.stream.close();
      const link = await connectTo(transport).connect({ migrationId: ID, pageChannels: 1, connection: 1 }, never);
      await link.control.write(hello(1));
      const incoming = await links.accept(never);
      const [channel] = (await incoming.pageChannels(ID, 1, never)) as [FrameStream];
      await finish(link.control, ...link.pageChannels, incoming.control, channel);
    });

    test('accept and pageChannels can be cancelled', async () => {
      const { links, transport } = await wire();
      const controller = new AbortController();
      const accepting = links.accept(controller.signal);
      controller.abort();
      await expect(accepting).rejects.toMatchObject({ code: 'GODWIT_CANCELLED' });
      const link = await connectTo(transport).connect({ migrationId: ID, pageChannels: 0, connection: 1 }, never);
      await link.control.write(hello(2));
      const incoming = await links.accept(never);
      const second = new AbortController();
      const waiting = incoming.pageChannels(ID, 2, second.signal);
      second.abort();
      await expect(waiting).rejects.toMatchObject({ code: 'GODWIT_CANCELLED' });
      await finish(link.control, incoming.control);
    });

    test('close refuses those who wait, and fails accept', async () => {
      const { links, transport } = await wire();
      const link = await connectTo(transport).connect({ migrationId: ID, pageChannels: 1, connection: 1 }, never);
      await link.control.write(hello(2));
      const incoming = await links.accept(never);
      const waiting = incoming.pageChannels(ID, 2, never);
      const failed = expect(waiting).rejects.toMatchObject({ code: 'GODWIT_INVALID_STATE' });
      await links.close();
      await failed;
      await expect(links.accept(never)).rejects.toMatchObject({ code: 'GODWIT_INVALID_STATE' });
      await finish(link.control, incoming.control);
      for (const channel of link.pageChannels) channel.abort(new GodwitError('GODWIT_CANCELLED', 'done'));
    });

    test('a listener holds a bounded number of pending connections', async () => {
      const { transport } = await wire({ maximumPending: 3, handshakeTimeoutMs: 5_000 });
      const silent = await Promise.all([1, 2, 3].map(() => pending(transport)));
      const refused = await pending(transport);
      expect(await refusal(refused.stream)).toMatchObject({ code: 'GODWIT_LIMIT_EXCEEDED', retry: true });
      await finish(...silent.map(({ stream }) => stream));
    });
  });
}
