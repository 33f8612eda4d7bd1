import { type BlockingFrames, GodwitError, type ReceivedFrame } from '@godwit/core/pages';
import { type ByteStream, frameStream } from '@godwit/transport';
import { describe, expect, jest, test } from '@jest/globals';
import fc from 'fast-check';
import { playing, recording } from './byte-streams.js';

jest.setTimeout(60_000);

/** A frame with its payload, if its type has one. */
interface Sent {
  readonly frame: ReceivedFrame['frame'];
  readonly payload: Uint8Array | undefined;
}

const payload = fc.oneof(
  fc.uint8Array({ maxLength: 40 }),
  // Some are read past the buffer, some do not fit into the first one, and the chunks of some are summed in several pieces.
  fc.nat(700_000).map((length) => Uint8Array.from({ length }, (_, at) => at * 7)),
);
const sent: fc.Arbitrary<Sent> = fc.oneof(
  fc.nat().map((id) => ({ frame: { type: 'ping' as const, id }, payload: undefined })),
  fc.tuple(fc.nat(9), payload).map(([page, bytes]) => {
    return { frame: { type: 'pages' as const, round: 1, block: 0, runs: [page, 2] }, payload: bytes };
  }),
);
const frames = fc.array(sent, { maxLength: 6 });

/** A stream that plays bytes in pieces of these sizes, in turns, by calls that block, and collects what is written by such calls. */
function blockingStream(bytes: Uint8Array, sizes: readonly number[]): ByteStream & { written(): Uint8Array } {
  const written: Uint8Array[] = [];
  let at = 0;
  let turn = 0;
  const read = (into: Uint8Array): number => {
    const count = Math.min(into.length, bytes.length - at, sizes[turn++ % sizes.length] as number);
    into.set(bytes.subarray(at, at + count));
    at += count;
    return count;
  };
  return {
    ...playing(bytes),
    blocking: { read, write: (chunks) => void written.push(...chunks.map((chunk) => Uint8Array.from(chunk))) },
    written: () => Uint8Array.from(Buffer.concat(written)),
  };
}

async function written(all: readonly Sent[], checksums: boolean): Promise<Uint8Array> {
  const bytes = recording();
  const stream = frameStream(bytes, { checksums });
  for (const { frame, payload: contents } of all) await stream.write(frame, contents && inPieces(contents));
  return bytes.bytes();
}

/** A payload as two chunks, as that of pages that are not neighbours. */
function inPieces(bytes: Uint8Array): Uint8Array[] {
  const middle = bytes.length >> 1;
  return [bytes.subarray(0, middle), bytes.subarray(middle)];
}

/** All that can be read, as text, and how it ends. */
function readAll({ blocking }: { readonly blocking?: BlockingFrames | undefined }): string[] {
  const calls = blocking as BlockingFrames;
  const got: string[] = [];
  try {
    for (let received = calls.read(); received !== null; received = calls.read()) {
      const bytes = new Uint8Array(received.payloadBytes);
      calls.readPayload(inPieces(bytes));
      got.push(`${JSON.stringify(received.frame)} ${Buffer.from(bytes).toString('base64')}`);
    }
    got.push('the end');
  } catch (error) {
    got.push(GodwitError.is(error) ? `${error.code}: ${error.message}` : String(error));
  }
  return got;
}

async function readAllWithPromises(bytes: Uint8Array, checksums: boolean): Promise<string[]> {
  const stream = frameStream(playing(bytes), { checksums });
  const got: string[] = [];
  try {
    for (let received = await stream.read(); received !== null; received = await stream.read()) {
      const into = new Uint8Array(received.payloadBytes);
      await stream.readPayload([into]);
      got.push(`${JSON.stringify(received.frame)} ${Buffer.from(into).toString('base64')}`);
    }
    got.push('the end');
  } catch (error) {
    got.push(GodwitError.is(error) ? `${error.code}: ${error.message}` : String(error));
  }
  return got;
}

const sizes = fc.array(fc.oneof(fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 300_000 })), {
  minLength: 1,
  maxLength: 5,
});

describe.each([
  ['without checksums', false],
  ['with checksums', true],
])('frames by calls that block, %s', (_, checksums) => {
  test('are those that are read with promises, however the bytes come', async () => {
    await fc.assert(
      fc.asyncProperty(frames, sizes, async (all, cuts) => {
        const bytes = await written(all, checksums);
        const expected = all.map(({ frame, payload: contents = new Uint8Array() }) => {
          return `${JSON.stringify(frame)} ${Buffer.from(contents).toString('base64')}`;
        });
        const stream = frameStream(blockingStream(bytes, cuts), { checksums });
        expect(readAll(stream)).toEqual([...expected, 'the end']);
        expect(stream.bytesRead).toBe(bytes.length);
        expect(stream.blocking?.buffered).toBe(0);
      }),
      { numRuns: 200 },
    );
  });

  test('are written to the same bytes', async () => {
    await fc.assert(
      fc.asyncProperty(frames, async (all) => {
        const bytes = blockingStream(new Uint8Array(), [1]);
        const stream = frameStream(bytes, { checksums });
        for (const { frame, payload: contents } of all) {
          stream.blocking?.write(frame, contents && inPieces(contents));
        }
        expect(Buffer.compare(bytes.written(), await written(all, checksums))).toBe(0);
        expect(stream.bytesWritten).toBe(bytes.written().length);
      }),
      { numRuns: 100 },
    );
  });

  test('are written by one call each, with payloads of many chunks', () => {
    let calls = 0;
    const blocking = { read: () => 0, write: () => void calls++ };
    const stream = frameStream({ ...playing(new Uint8Array()), blocking }, { checksums });
    const pages = Array.from({ length: 8 }, () => new Uint8Array(4096));
    const runs = pages.flatMap((_, at) => [at * 2, 1]);
    for (let round = 1; round <= 3; round++) stream.blocking?.write({ type: 'pages', round, block: 0, runs }, pages);
    stream.blocking?.write({ type: 'ping', id: 1 });
    expect(calls).toBe(4);
  });

  test('end with the same error wherever the stream ends, and whichever bit is wrong', async () => {
    const all: Sent[] = [
      { frame: { type: 'ping', id: 7 }, payload: undefined },
      { frame: { type: 'pages', round: 1, block: 0, runs: [3, 1] }, payload: Uint8Array.of(1, 2, 3, 4) },
    ];
    const bytes = await written(all, checksums);
    for (let length = 0; length <= bytes.length; length++) {
      const cut = bytes.subarray(0, length);
      const stream = frameStream(blockingStream(cut, [3]), { checksums });
      expect(readAll(stream)).toEqual(await readAllWithPromises(cut, checksums));
    }
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const wrong = Uint8Array.from(bytes);
      wrong[bit >> 3] = (wrong[bit >> 3] as number) ^ (1 << (bit & 7));
      const stream = frameStream(blockingStream(wrong, [1e6]), { checksums });
      expect(readAll(stream)).toEqual(await readAllWithPromises(wrong, checksums));
    }
  });

  test('are whole where their heads lie across the end of the buffer, or are larger than it', async () => {
    const many = Array.from({ length: 4000 }, (_, id): Sent => ({ frame: { type: 'ping', id }, payload: undefined }));
    const runs = Array.from({ length: 20_000 }, (_, at) => at * 3);
    const large: Sent = { frame: { type: 'pages', round: 1, block: 0, runs }, payload: Uint8Array.of(1, 2) };
    const all = [...many, large, ...many.slice(0, 9), large];
    const bytes = await written(all, checksums);
    const stream = frameStream(blockingStream(bytes, [1e6, 1000, 77]), { checksums });
    const got = readAll(stream);
    expect(got.at(-1)).toBe('the end');
    expect(got.slice(0, -1).map((text) => JSON.parse(text.slice(0, text.lastIndexOf(' '))))).toEqual(
      all.map(({ frame }) => frame),
    );
  });

  test('take turns with calls that return promises', async () => {
    const all: Sent[] = Array.from({ length: 6 }, (_, page) => {
      return { frame: { type: 'pages', round: 1, block: 0, runs: [page, 1] }, payload: Uint8Array.of(page, page) };
    });
    const bytes = await written(all, checksums);
    const carrier = blockingStream(bytes, [1e6]);
    const { blocking } = carrier;
    const stream = frameStream(
      { ...carrier, read: async (into, wanted = into.length) => blocking?.read(into, wanted) ?? 0 },
      { checksums },
    );
    const pages: unknown[] = [];
    for (let i = 0; i < all.length; i++) {
      const received = i % 2 === 0 ? await stream.read() : stream.blocking?.read();
      if (received?.frame.type === 'pages') pages.push(received.frame.runs[0]);
      const into = new Uint8Array(2);
      if (i % 3 === 0) stream.blocking?.readPayload([into]);
      else await stream.readPayload([into]);
      expect([...into]).toEqual([i, i]);
    }
    expect(pages).toEqual([0, 1, 2, 3, 4, 5]);
    expect(await stream.read()).toBeNull();
    expect(stream.blocking?.read()).toBeNull();
  });

  test('keep to the order of calls, as others do', async () => {
    const bytes = await written(
      [{ frame: { type: 'pages', round: 1, block: 0, runs: [0, 1] }, payload: Uint8Array.of(9) }],
      checksums,
    );
    const calls = frameStream(blockingStream(bytes, [1e6]), { checksums }).blocking as BlockingFrames;
    calls.read();
    expect(() => calls.read()).toThrow('1 bytes of payload must be read or skipped first');
    expect(() => calls.readPayload([new Uint8Array(2)])).toThrow('the payload has 1 bytes, the chunks 2');
    calls.readPayload([new Uint8Array(1)]);
    expect(calls.read()).toBeNull();
  });

  test('fail as a lost link when the carrier does', () => {
    const calls = {
      read: () => {
        throw new Error('EIO');
      },
      write: () => {
        throw new Error('EPIPE');
      },
    };
    const { blocking } = frameStream({ ...playing(new Uint8Array()), blocking: calls }, { checksums });
    expect(codeOf(() => blocking?.read())).toBe('GODWIT_LINK_LOST');
    expect(codeOf(() => blocking?.write({ type: 'ping', id: 1 }))).toBe('GODWIT_LINK_LOST');
  });
});

function codeOf(call: () => unknown): unknown {
  try {
    return call();
  } catch (error) {
    return GodwitError.is(error) ? error.code : error;
  }
}

test('a stream whose calls do not block has none of them', () => {
  expect(frameStream(playing(new Uint8Array())).blocking).toBeUndefined();
});
