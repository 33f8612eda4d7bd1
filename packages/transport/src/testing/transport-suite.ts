import assert from 'node:assert/strict';
import { setTimeout as delay, setImmediate as nextTurn } from 'node:timers/promises';
import { GodwitError } from '@godwit/core';
import { frameStream } from '../framing/frame-stream.js';
import type { ByteStream } from '../stream/byte-stream.js';
import { checkAbortIsTold, checkRefusal, withAdvice } from './fixture-advice.js';
import { frameSuite } from './frame-suite.js';
import { pattern, readAll, readExactly, settledWithin } from './streams.js';
import type { SuiteRunner, TransportFixture } from './transport-fixture.js';
import { rejectsWith, withPair as withPairOf } from './with-pair.js';

/**
 * The guarantees of `ByteStream`, `Listener` and `Transport`, as tests that every implementation must pass.
 *
 * @example
 * transportSuite('my transport', { describe, test }, {
 *   listen: () => mine(0).listen(),
 *   connect: (listener, signal) => mine(listener.port).connect(signal),
 *   tellsAbort: true,
 *   mostHeld: 32 * 2 ** 20,
 * });
 */
export function transportSuite(name: string, runner: SuiteRunner, fixture: TransportFixture): void {
  const { describe, test } = runner;

  const { streamsAtOnce = 24, shortConnections = 1_000, tellsRefusal = true } = fixture.capabilities ?? {};
  const withPair = (body: Parameters<typeof withPairOf>[1]): Promise<void> => withPairOf(fixture, body);

  describe(`${name} as a transport`, () => {
    for (const size of [0, 1, 65_535, 65_536, 65_537, 3_000_001]) {
      test(`carries ${size} bytes there and back`, () =>
        withPair(async (near, far) => {
          const bytes = pattern(size, 7);
          const echo = (async () => {
            const all = await readAll(far);
            await far.write([all]);
            await far.close();
          })();
          await near.write([bytes]);
          await near.close();
          const back = await readAll(near);
          await echo;
          assert.ok(Buffer.from(back).equals(bytes));
        }));
    }

    test('keeps the order of overlapping writes, whatever their chunks', () =>
      withPair(async (near, far) => {
        const sent = pattern(2_000_000, 3);
        const writes: Promise<void>[] = [];
        for (let at = 0, i = 0; at < sent.length; i++) {
          const chunks: Uint8Array[] = [];
          for (let c = 0; c <= i % 5; c++) {
            const size = (i * 7919 + c * 104_729) % 20_000;
            chunks.push(sent.subarray(at, at + size));
            at += size;
          }
          writes.push(near.write(chunks));
        }
        const received = readAll(far);
        await Promise.all(writes);
        await near.close();
        assert.ok(Buffer.from(await received).equals(sent));
      }));

    test('writes one gather list of 1 200 chunks, empty ones among them', () =>
      withPair(async (near, far) => {
        const sent = pattern(1_200 * 100, 9);
        const chunks = Array.from({ length: 1_200 }, (_, i) => sent.subarray(i * 100, (i + 1) * 100));
        chunks.splice(500, 0, new Uint8Array(0));
        chunks.push(new Uint8Array(0));
        const received = readExactly(far, sent.length);
        await near.write(chunks);
        await near.write([]);
        await near.write([new Uint8Array(0)]);
        assert.ok(Buffer.from(await received).equals(sent));
      }));

    test('fills what it is given, byte by byte and with any hint', () =>
      withPair(async (near, far) => {
        const sent = pattern(100_000, 5);
        const writing = near.write([sent]).then(() => near.close());
        const received = new Uint8Array(sent.length);
        let at = 0;
        for (; at < 50; at++) assert.equal(await far.read(received.subarray(at, at + 1)), 1);
        for (let i = 0; ; i++) {
          const room = received.subarray(at, at + 1 + ((i * 7919) % 40_000));
          if (room.length === 0) break;
          const count = await far.read(room, 1 + ((i * 31) % 80_000));
          assert.ok(count > 0 && count <= room.length);
          at += count;
        }
        await writing;
        assert.ok(Buffer.from(received).equals(sent));
        assert.equal(await far.read(new Uint8Array(10), 10), 0);
        assert.equal(await far.read(new Uint8Array(10)), 0, 'the end stays the end');
      }));

    test('does not wait for more than has come unless the caller wants more', () =>
      withPair(async (near, far) => {
        await near.write([pattern(10, 1)]);
        assert.ok((await far.read(new Uint8Array(1 << 20))) > 0);
      }));

    test('a read that waits for all that is wanted says how much has come', () =>
      withPair(async (near, far) => {
        const sent = pattern(100_000, 6);
        const room = new Uint8Array(200_000);
        let got: number | undefined;
        const reading = far.read(room, room.length).then((count) => {
          got = count;
        });
        await near.write([sent]);
        // Either the read does not wait for more, or `pendingBytes` counts what has come.
        while (got === undefined && (far.pendingBytes ?? 0) < sent.length) await nextTurn();
        if (got === undefined) assert.equal(far.pendingBytes, sent.length);
        await near.close();
        await reading;
        assert.equal(far.pendingBytes ?? 0, 0);
        assert.ok(got !== undefined && got > 0);
        assert.ok(Buffer.from(room.subarray(0, got)).equals(sent.subarray(0, got)));
      }));

    test('writes no byte outside the buffer it reads into', () =>
      withPair(async (near, far) => {
        const room = new Uint8Array(300_000);
        const writing = near.write([pattern(250_000, 2).fill(1)]);
        let at = 100;
        while (at < 200_100) at += await far.read(room.subarray(at, 200_100), 200_100 - at);
        assert.ok(room.subarray(0, 100).every((byte) => byte === 0));
        assert.ok(room.subarray(100, 200_100).every((byte) => byte === 1));
        assert.ok(room.subarray(200_100).every((byte) => byte === 0));
        await readExactly(far, 50_000);
        await writing;
      }));

    test('gives chunks back when the write resolves: later changes do not reach the peer', () =>
      withPair(async (near, far) => {
        const chunk = new Uint8Array(3_000).fill(1);
        await near.write([chunk]);
        chunk.fill(2);
        assert.ok((await readExactly(far, 3_000)).every((byte) => byte === 1));
      }));

    test('a slow reader bounds what the carrier takes', () =>
      withPair(async (near, far) => {
        const chunk = pattern(256 * 1024, 4);
        const total = fixture.mostHeld + 8 * 2 ** 20;
        let accepted = 0;
        const writing = (async () => {
          while (accepted < total) {
            await near.write([chunk]);
            accepted += chunk.length;
          }
          await near.close();
        })();
        writing.catch(() => undefined);
        // No event shows that no further write will be taken: the test waits until none was taken for a while.
        for (let before = -1; before !== accepted; ) {
          before = accepted;
          await delay(100);
        }
        assert.ok(
          accepted <= fixture.mostHeld,
          `${accepted} bytes were taken with nobody reading: without back-pressure pages pile up; if the carrier holds so many, set mostHeld`,
        );
        const received = await readAll(far);
        await writing;
        assert.equal(received.length, accepted);
      }));

    test('half-close: the side that ends first goes on reading', () =>
      withPair(async (near, far) => {
        await near.write([pattern(10, 1)]);
        await near.close();
        assert.equal((await readAll(far)).length, 10);
        const received = readAll(near);
        await far.write([pattern(100_000, 1)]);
        await far.close();
        assert.equal((await received).length, 100_000);
      }));

    test('half-close: the accepting side may end first', () =>
      withPair(async (near, far) => {
        await far.close();
        assert.equal(await near.read(new Uint8Array(1)), 0);
        const received = readAll(far);
        await near.write([pattern(70_000, 1)]);
        await near.close();
        assert.equal((await received).length, 70_000);
      }));

    test('misuse is told: write after close, two reads at once, an empty buffer', () =>
      withPair(async (near, far) => {
        await near.close();
        await near.close();
        await rejectsWith(near.write([pattern(1, 1)]), 'GODWIT_INVALID_STATE');
        const first = near.read(new Uint8Array(1));
        await rejectsWith(near.read(new Uint8Array(1)), 'GODWIT_INVALID_STATE');
        await far.write([pattern(1, 1)]);
        assert.equal(await first, 1);
        await rejectsWith(near.read(new Uint8Array(0)), 'GODWIT_INVALID_ARGUMENT');
      }));

    test('abort settles pending calls at once and lets go of their memory', () =>
      withPair(async (near, far) => {
        const chunk = new Uint8Array(fixture.mostHeld + (1 << 20));
        const into = new Uint8Array(1 << 20);
        const writing = near.write([chunk]);
        const reading = near.read(into, into.length);
        const reason = new GodwitError('GODWIT_CANCELLED', 'the test aborts');
        near.abort(reason);
        near.abort(new GodwitError('GODWIT_INTERNAL', 'the first reason stays'));
        await settledWithin(1_000, assert.rejects(writing, reason), assert.rejects(reading, reason));
        await assert.rejects(near.write([pattern(1, 1)]), reason);
        await assert.rejects(near.read(new Uint8Array(1)), reason);
        await near.close();
        await far.write([pattern(100, 1)]).catch(() => undefined);
        await nextTurn();
        assert.ok(
          into.every((byte) => byte === 0),
          'an aborted read was written into',
        );
      }));

    for (const when of ['at once', 'in the next turn', 'with bytes on their way']) {
      test(`abort after close, ${when}, leaves nothing open`, () =>
        withPair(async (near) => {
          const writing =
            when === 'with bytes on their way' ? near.write([new Uint8Array(fixture.mostHeld)]) : undefined;
          const written = writing?.catch(() => undefined);
          const closing = near.close();
          if (when === 'in the next turn') await nextTurn();
          near.abort(new GodwitError('GODWIT_CANCELLED', 'never mind'));
          await settledWithin(1_000, closing, written ?? Promise.resolve());
        }));
    }

    test('a peer that aborts is noticed by reads and writes', () =>
      withPair(async (near, far) => {
        const read = near.read(new Uint8Array(10));
        far.abort(new GodwitError('GODWIT_CANCELLED', 'gone'));
        await checkAbortIsTold(read, fixture.tellsAbort);
        const flood = async (): Promise<void> => {
          const chunk = pattern(1 << 20, 1);
          for (;;) await near.write([chunk]);
        };
        await settledWithin(2_000, rejectsWith(flood(), 'GODWIT_LINK_LOST'));
      }));

    test(`${streamsAtOnce} streams at once do not mix`, () =>
      withAdvice(`where ${streamsAtOnce} cost too much, set capabilities.streamsAtOnce`, async () => {
        const listener = await fixture.listen();
        try {
          const served = (async () => {
            const echoes: Promise<void>[] = [];
            for (let i = 0; i < streamsAtOnce; i++) echoes.push(echo(await listener.accept()));
            await Promise.all(echoes);
          })();
          served.catch(() => undefined);
          await Promise.all(
            Array.from({ length: streamsAtOnce }, async (_, i) => {
              const near = await fixture.connect(listener);
              const sent = pattern(10_000 + i, i);
              await near.write([sent]);
              await near.close();
              assert.ok(Buffer.from(await readAll(near)).equals(sent));
            }),
          );
          await served;
        } finally {
          await listener.close();
        }
      }));

    test(`${shortConnections} streams one after the other leave nothing behind`, () =>
      withAdvice(`where ${shortConnections} take too long, set capabilities.shortConnections`, async () => {
        const listener = await fixture.listen();
        try {
          for (let i = 0; i < shortConnections; i++) {
            const accepting = listener.accept();
            accepting.catch(() => undefined);
            const near = await fixture.connect(listener);
            const echoing = echo(await accepting);
            await near.write([Uint8Array.of(i & 0xff, 1, 2)]);
            await near.close();
            assert.deepEqual(Array.from(await readAll(near)), [i & 0xff, 1, 2]);
            await echoing;
          }
        } finally {
          await listener.close();
        }
      }));

    test('accept and connect can be cancelled, and a cancelled accept loses no stream', () =>
      withPair(async (_near, _far, listener) => {
        const controller = new AbortController();
        const accepting = listener.accept(controller.signal);
        controller.abort();
        await rejectsWith(accepting, 'GODWIT_CANCELLED');
        await rejectsWith(listener.accept(controller.signal), 'GODWIT_CANCELLED');
        await rejectsWith(fixture.connect(listener, controller.signal), 'GODWIT_CANCELLED');
        const next = await fixture.connect(listener);
        const accepted = await listener.accept();
        await next.write([pattern(3, 1)]);
        assert.equal((await readExactly(accepted, 3)).length, 3);
        next.abort(new GodwitError('GODWIT_CANCELLED', 'done'));
        accepted.abort(new GodwitError('GODWIT_CANCELLED', 'done'));
      }));

    test('a closed listener refuses, and the streams it gave live on', () =>
      withPair(async (near, far, listener) => {
        const accepting = listener.accept();
        const refused = rejectsWith(accepting, 'GODWIT_INVALID_STATE');
        await listener.close();
        await listener.close();
        await refused;
        await rejectsWith(listener.accept(), 'GODWIT_INVALID_STATE');
        await checkRefusal(fixture.connect(listener), tellsRefusal);
        await near.write([pattern(5, 1)]);
        assert.equal((await readExactly(far, 5)).length, 5);
      }));

    frameSuite(runner, fixture);

    test('carries frames whose payloads are cut in any way', () =>
      withPair(async (near, far) => {
        const source = frameStream(near);
        const destination = frameStream(far);
        const ram = pattern(1 << 20, 11);
        const cuts = [
          [1 << 20],
          [4096, (1 << 20) - 4096],
          Array.from({ length: 256 }, () => 4096),
          [200_000, 1, 65_536, 65_535, (1 << 20) - 331_072],
          [0, 100, 0],
          [],
        ];
        const sending = (async () => {
          for (const sizes of cuts) {
            await source.write({ type: 'pages', round: 1, block: 0, runs: [0, 256] }, cut(ram, sizes));
            await source.write({ type: 'roundEnd', round: 1, pages: 256 });
          }
          await source.close();
        })();
        for (const sizes of [...cuts].reverse()) {
          const received = await destination.read();
          assert.equal(received?.frame.type, 'pages');
          const into = new Uint8Array(received.payloadBytes);
          const own = sizes.reduce((sum, size) => sum + size, 0) === into.length ? sizes : [into.length];
          await destination.readPayload(cut(into, own));
          assert.ok(Buffer.from(ram.buffer, 0, into.length).equals(into));
          assert.equal((await destination.read())?.frame.type, 'roundEnd');
        }
        assert.equal(await destination.read(), null);
        await destination.close();
        await sending;
        assert.equal(destination.bytesRead, source.bytesWritten);
      }));
  });
}

/** Sends everything back, and ends when the peer has. */
async function echo(stream: ByteStream): Promise<void> {
  await stream.write([await readAll(stream)]);
  await stream.close();
}

function cut(bytes: Uint8Array, sizes: readonly number[]): Uint8Array[] {
  let at = 0;
  return sizes.map((size) => {
    at += size;
    return bytes.subarray(at - size, at);
  });
}
