import { type FrameStream, GodwitError } from '@godwit/core';
import { type ByteStream, connectTo, frameStream, listenOn, memory, type Transport, tcp } from '@godwit/transport';
import { describe, expect, jest, test } from '@jest/globals';
import { hello, ID, never } from './link-peers.js';

jest.setTimeout(30_000);

const over = new GodwitError('GODWIT_CANCELLED', 'the test is over');

async function turn(): Promise<void> {
  for (let i = 0; i < 3; i++) await new Promise((resolve) => setImmediate(resolve));
}

/** A transport whose connects stand still until they are let go; it ignores the signal, as a careless one may. */
class HeldTransport implements Transport {
  readonly held: (() => void)[] = [];
  readonly aborted: GodwitError[] = [];
  readonly signals: (AbortSignal | undefined)[] = [];
  begun = 0;
  readonly #below: Transport;

  constructor(below: Transport) {
    this.#below = below;
  }

  async connect(signal?: AbortSignal): Promise<ByteStream> {
    this.begun++;
    this.signals.push(signal);
    await new Promise<void>((resolve) => this.held.push(resolve));
    const stream = await this.#below.connect();
    return {
      ...stream,
      abort: (reason) => {
        this.aborted.push(reason);
        stream.abort(reason);
      },
    };
  }

  listen(): ReturnType<Transport['listen']> {
    return this.#below.listen();
  }

  /** Lets all that stand still go, the last one first. */
  async letGo(): Promise<number> {
    const waiting = this.held.splice(0).reverse();
    for (const go of waiting) {
      go();
      await turn();
    }
    return waiting.length;
  }
}

describe('connectTo', () => {
  test('connects 64 page channels in four turns of 16, the control stream beside them; each keeps its index', async () => {
    const below = memory();
    const transport = new HeldTransport(below);
    const links = await listenOn(below);
    const connecting = connectTo(transport).connect({ migrationId: ID, pageChannels: 64, connection: 1 }, never);
    const waves: number[] = [];
    for (await turn(); transport.held.length > 0; await turn()) {
      // Each one that is let go makes room for the next: a wave is what stood still together.
      const standing = transport.held.splice(0).reverse();
      waves.push(standing.length);
      for (const go of standing) go();
    }
    expect(waves).toEqual([17, 16, 16, 16]);
    const link = await connecting;
    await link.control.write(hello(64));
    const incoming = await links.accept(never);
    const channels = (await incoming.pageChannels(ID, 64, never)) as readonly FrameStream[];
    for (const [index, channel] of (link.pageChannels as readonly FrameStream[]).entries()) {
      await channel.write({ type: 'roundEnd', round: index, pages: 0 });
      expect((await channels[index]?.read())?.frame).toMatchObject({ round: index });
    }
    for (const stream of [link.control, incoming.control, ...(link.pageChannels as FrameStream[]), ...channels]) {
      stream.abort(over);
    }
    await links.close();
  });

  test('writes each attach as soon as its stream stands', async () => {
    const transport = new HeldTransport(memory());
    const listener = await transport.listen();
    const connecting = connectTo(transport).connect({ migrationId: ID, pageChannels: 2, connection: 3 }, never);
    await turn();
    // The control stream and channel 0 still stand still.
    transport.held.pop()?.();
    const far = frameStream(await listener.accept());
    expect((await far.read())?.frame).toEqual({ type: 'attach', migrationId: ID, index: 1, connection: 3 });
    await transport.letGo();
    const link = await connecting;
    for (const stream of [link.control, ...link.pageChannels, far]) (stream as FrameStream).abort(over);
    await listener.close();
  });

  test('cancelled in the middle, drops what stands and what comes late, and begins nothing more', async () => {
    const transport = new HeldTransport(memory());
    const listener = await transport.listen();
    const controller = new AbortController();
    const connecting = connectTo(transport).connect(
      { migrationId: ID, pageChannels: 40, connection: 1 },
      controller.signal,
    );
    const failed = expect(connecting).rejects.toBe(over);
    await turn();
    for (const go of transport.held.splice(0, 7)) go();
    await turn();
    // The control stream has no successor, six channels have.
    expect(transport.begun).toBe(23);
    controller.abort(over);
    await failed;
    expect(transport.aborted).toHaveLength(7);
    expect(transport.signals.every((signal) => signal?.aborted === true)).toBe(true);
    await transport.letGo();
    expect(transport.begun).toBe(23);
    expect(transport.aborted).toHaveLength(23);
    expect(new Set(transport.aborted)).toEqual(new Set([over]));
    await listener.close();
  });

  test('cancelled in the middle of real connects, leaves no handle open', async () => {
    const links = await listenOn(tcp({ port: 0 }));
    const transport = tcp({ port: links.listener.port });
    const controller = new AbortController();
    let connects = 0;
    const counting: Transport = {
      ...transport,
      connect: async (signal) => {
        const stream = await transport.connect(signal);
        if (++connects === 5) controller.abort(over);
        return stream;
      },
    };
    const connecting = connectTo(counting).connect(
      { migrationId: ID, pageChannels: 64, connection: 1 },
      controller.signal,
    );
    await expect(connecting).rejects.toBe(over);
    await links.close();
  });

  test('drops the streams that it has when one fails, and says why', async () => {
    let connections = 0;
    const aborted: unknown[] = [];
    const transport: Transport = {
      connect: async () => {
        if (++connections === 3) throw Object.assign(new Error('the cable broke'), { code: 'EIO' });
        return {
          peer: 'nowhere',
          write: async () => undefined,
          read: () => new Promise<number>(() => undefined),
          close: async () => undefined,
          abort: (reason) => void aborted.push(reason),
        };
      },
      listen: async () => {
        throw new Error('not here');
      },
    };
    await expect(
      connectTo(transport).connect({ migrationId: ID, pageChannels: 2, connection: 1 }, never),
    ).rejects.toMatchObject({
      code: 'GODWIT_CONNECT_FAILED',
      message: expect.stringContaining('the cable broke'),
    });
    expect(aborted).toHaveLength(2);
  });

  test('is cancelled while it connects', async () => {
    // An address for documentation (RFC 5737): nobody answers, or there is no route.
    const controller = new AbortController();
    const connecting = connectTo(tcp({ host: '192.0.2.1', port: 1 })).connect(
      { migrationId: ID, pageChannels: 0, connection: 1 },
      controller.signal,
    );
    controller.abort();
    await expect(connecting).rejects.toMatchObject({ code: 'GODWIT_CANCELLED' });
  });
});

describe('a page channel that the destination refuses', () => {
  /** A destination that refuses channel 1 with these words, when `refuse` is called. */
  async function refusing(code: string, retry: boolean) {
    const transport = memory();
    const listener = await transport.listen();
    const far: FrameStream[] = [];
    const attached = (async () => {
      for (;;) {
        const stream = frameStream(await listener.accept());
        far.push(stream);
        if (far.length < 2) continue;
        return;
      }
    })();
    const refuse = async (): Promise<void> => {
      await attached;
      const [, channel] = far;
      expect((await channel?.read())?.frame).toMatchObject({ type: 'attach', index: 0 });
      await channel?.write({ type: 'error', code, message: '128 streams wait here already', retry });
    };
    const close = async (...streams: readonly FrameStream[]): Promise<void> => {
      for (const stream of [...far, ...streams]) stream.abort(over);
      await listener.close();
    };
    return { transport, refuse, close };
  }

  test.each([
    ['GODWIT_LIMIT_EXCEEDED', true, 'GODWIT_LIMIT_EXCEEDED', /refused page channel 0: 128 streams wait here already$/],
    ['GODWIT_PROTOCOL', false, 'GODWIT_PROTOCOL', /refused page channel 0: 128 streams/],
    ['GODWIT_OF_2030', true, 'GODWIT_INTERNAL', /refused page channel 0: GODWIT_OF_2030: 128 streams/],
  ] as const)('ends the link that stands, with %s (retry %s)', async (code, retry, seen, message) => {
    const { transport, refuse, close } = await refusing(code, retry);
    const link = await connectTo(transport).connect({ migrationId: ID, pageChannels: 1, connection: 1 }, never);
    const reading = link.control.read();
    await refuse();
    await expect(reading).rejects.toMatchObject({
      code: seen,
      message: expect.stringMatching(message),
      remote: true,
      retry,
    });
    await close(link.control, ...(link.pageChannels as readonly FrameStream[]));
  });

  test('ends an attempt that is still being made', async () => {
    const { transport: below, refuse, close } = await refusing('GODWIT_LIMIT_EXCEEDED', true);
    let connects = 0;
    const transport: Transport = {
      ...below,
      // The third stream never stands.
      connect: (signal) => (++connects > 2 ? new Promise<ByteStream>(() => undefined) : below.connect(signal)),
    };
    const connecting = connectTo(transport).connect({ migrationId: ID, pageChannels: 2, connection: 1 }, never);
    const failed = expect(connecting).rejects.toMatchObject({
      code: 'GODWIT_LIMIT_EXCEEDED',
      message: expect.stringContaining('refused page channel 0'),
      retry: true,
    });
    await refuse();
    await failed;
    await close();
  });

  test('is heard although writing its attach fails first', async () => {
    const { transport: below, close } = await refusing('GODWIT_LIMIT_EXCEEDED', true);
    let connects = 0;
    const words = new Promise<Uint8Array>((resolve) => {
      const said = frameStream({
        peer: 'memory',
        write: async ([head]) => resolve(Uint8Array.from(head as Uint8Array)),
        read: async () => 0,
        close: async () => undefined,
        abort: () => undefined,
      });
      void said.write({ type: 'error', code: 'GODWIT_LIMIT_EXCEEDED', message: 'later', retry: true });
    });
    const transport: Transport = {
      ...below,
      async connect(signal) {
        const stream = await below.connect(signal);
        if (++connects === 1) return stream;
        // Refused and closed before a byte was read: the kernel says EPIPE, and has the reason.
        return {
          ...stream,
          write: () => Promise.reject(new GodwitError('GODWIT_LINK_LOST', 'write EPIPE')),
          read: async (into) => {
            await turn();
            const bytes = await words;
            into.set(bytes);
            return bytes.length;
          },
        };
      },
    };
    await expect(
      connectTo(transport).connect({ migrationId: ID, pageChannels: 1, connection: 1 }, never),
    ).rejects.toMatchObject({ code: 'GODWIT_LIMIT_EXCEEDED', message: expect.stringContaining('later'), retry: true });
    await close();
  });

  test('without a word, as by a destination that has no descriptor left, ends the attempt and says what may be', async () => {
    const { transport: below, close } = await refusing('GODWIT_INTERNAL', false);
    let connects = 0;
    const transport: Transport = {
      ...below,
      async connect(signal) {
        if (++connects > 3) return new Promise<ByteStream>(() => undefined);
        const stream = await below.connect(signal);
        return connects < 3 ? stream : { ...stream, read: async () => 0 };
      },
    };
    await expect(
      connectTo(transport).connect({ migrationId: ID, pageChannels: 4, connection: 1 }, never),
    ).rejects.toMatchObject({
      code: 'GODWIT_CONNECT_FAILED',
      message: expect.stringMatching(/closed page channel \d before the link stood.*ulimit -n/),
      retry: true,
    });
    await close();
  });
});
