import assert from 'node:assert/strict';
import { GodwitError } from '@godwit/core';
import { frameStream } from '../framing/frame-stream.js';
import type { ByteStream } from '../stream/byte-stream.js';
import { pattern } from './streams.js';
import type { SuiteRunner, TransportFixture } from './transport-fixture.js';
import { rejectsWith, withPair } from './with-pair.js';

const MAXIMUM = 2 ** 20;

/**
 * The use of a transport by a migration, as tests: frames of every size, pending connections, and peers that vanish inside a
 * frame.
 */
export function frameSuite({ test }: SuiteRunner, fixture: TransportFixture): void {
  for (const size of [0, 1, 65_535, 65_536, 65_537, MAXIMUM]) {
    test(`carries a frame with ${size} bytes of payload`, () =>
      withPair(fixture, async (near, far) => {
        const payload = pattern(size, 3);
        const destination = frameStream(far, { maximumPayloadBytes: MAXIMUM });
        const sending = pages(near, payload);
        const received = await destination.read();
        assert.equal(received?.payloadBytes, size);
        const into = new Uint8Array(size);
        await destination.readPayload([into]);
        await sending;
        assert.ok(Buffer.from(into).equals(payload));
      }));
  }

  test('refuses a frame beyond the maximum before its payload is read', () =>
    withPair(fixture, async (near, far) => {
      const sending = pages(near, new Uint8Array(MAXIMUM + 1)).catch(() => undefined);
      await rejectsWith(frameStream(far, { maximumPayloadBytes: MAXIMUM }).read(), 'GODWIT_LIMIT_EXCEEDED');
      near.abort(new GodwitError('GODWIT_CANCELLED', 'refused'));
      await sending;
    }));

  test('carries frames that are written one byte at a time', () =>
    withPair(fixture, async (near, far) => {
      const wire = await frameBytes(pattern(300, 5));
      const writing = (async () => {
        for (let at = 0; at < wire.length; at++) await near.write([wire.subarray(at, at + 1)]);
      })();
      const destination = frameStream(far);
      assert.equal((await destination.read())?.payloadBytes, 300);
      const into = new Uint8Array(300);
      await destination.readPayload(Array.from({ length: 300 }, (_, i) => into.subarray(i, i + 1)));
      await writing;
      assert.ok(Buffer.from(into).equals(pattern(300, 5)));
    }));

  for (const how of ['ends', 'aborts'] as const) {
    test(`a peer that ${how} inside a frame is a lost link, not an end`, () =>
      withPair(fixture, async (near, far) => {
        const wire = await frameBytes(pattern(5_000, 5));
        const destination = frameStream(far);
        await near.write([wire.subarray(0, 1_000)]);
        assert.equal((await destination.read())?.payloadBytes, 5_000);
        const payload = rejectsWith(destination.readPayload([new Uint8Array(5_000)]), 'GODWIT_LINK_LOST');
        if (how === 'ends') await near.close();
        else near.abort(new GodwitError('GODWIT_CANCELLED', 'gone'));
        await payload;
      }));
  }

  test('garbage instead of a first frame is refused, and the listener serves on', () =>
    withPair(fixture, async (near, far, listener) => {
      await near.write([Buffer.from('GET / HTTP/1.1\r\n\r\n')]);
      await rejectsWith(frameStream(far).read(), 'GODWIT_BAD_STREAM');
      far.abort(new GodwitError('GODWIT_BAD_STREAM', 'garbage'));
      const accepting = listener.accept();
      const next = await fixture.connect(listener);
      const accepted = await accepting;
      await frameStream(next).write({ type: 'go', attempt: 1 });
      assert.equal((await frameStream(accepted).read())?.frame.type, 'go');
      for (const stream of [next, accepted]) stream.abort(new GodwitError('GODWIT_CANCELLED', 'done'));
    }));
}

async function pages(stream: ByteStream, payload: Uint8Array): Promise<void> {
  await frameStream(stream).write({ type: 'pages', round: 1, block: 0, runs: [0, 1] }, [payload]);
}

/** A frame as bytes. */
async function frameBytes(payload: Uint8Array): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  const recorder: ByteStream = {
    peer: 'recorder',
    write: async (chunks) => void parts.push(...chunks.map((chunk) => Uint8Array.from(chunk))),
    read: async () => 0,
    close: async () => undefined,
    abort: () => undefined,
  };
  await pages(recorder, payload);
  return Uint8Array.from(Buffer.concat(parts));
}
