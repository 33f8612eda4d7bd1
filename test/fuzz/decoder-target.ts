import { isDeepStrictEqual } from 'node:util';
import { FRAMES_WITH_PAYLOAD, type Frame, GodwitError } from '@godwit/core';
import { frameStream, memoryPair } from '@godwit/transport';
import { encodeFrames, exampleAnswers, exampleMigrations } from './example-frames.js';
import type { FuzzTarget } from './fuzz-target.js';
import { scriptedStream } from './scripted-stream.js';

/** The error codes with which a stream may refuse bytes that are not frames. */
const REFUSALS: readonly string[] = ['GODWIT_BAD_STREAM', 'GODWIT_LIMIT_EXCEEDED', 'GODWIT_LINK_LOST'];

/** Limits so small that five bytes can announce sizes far above them. */
const LIMITS = { maximumHeaderBytes: 16_384, maximumPayloadBytes: 65_536, maximumRuns: 1024 };

/**
 * Feeds bytes to the frame decoder. It must return frames that have the same meaning when they are encoded again, or
 * refuse the bytes with a reason.
 */
export const decoderTarget: FuzzTarget = {
  name: 'decoder',
  description: 'bytes into the frame decoder',
  longest: 4096,
  async seeds() {
    const streams = [...exampleMigrations(), exampleAnswers()];
    return Promise.all([...streams, ...streams.flat().map((one) => [one])].map((frames) => encodeFrames(frames)));
  },
  async run(input) {
    const stream = frameStream(scriptedStream(input, 1 + (input[0] ?? 0) * 4), LIMITS);
    const frames: Frame[] = [];
    try {
      for (;;) {
        const received = await stream.read();
        if (received === null) break;
        frames.push(received.frame);
        if (received.payloadBytes > LIMITS.maximumPayloadBytes) throw new Error('a payload beyond the limit');
        if (received.payloadBytes > 0 && !FRAMES_WITH_PAYLOAD.has(received.frame.type))
          throw new Error('no such payload');
        if (frames.length % 2 === 0) await stream.skipPayload();
        else await stream.readPayload([new Uint8Array(received.payloadBytes)]);
      }
    } catch (error) {
      if (!(GodwitError.is(error) && REFUSALS.includes(error.code))) throw error;
    }
    if (frames.length > 0) await roundTrip(frames);
  },
};

/** Checks that decoded frames, encoded and decoded again, stay the same. */
async function roundTrip(frames: readonly Frame[]): Promise<void> {
  const [near, far] = memoryPair('fuzz:', 2 ** 20);
  const out = frameStream(near, LIMITS);
  const back = frameStream(far, LIMITS);
  for (const frame of frames) {
    const [, received] = await Promise.all([out.write(frame), back.read()]);
    if (!isDeepStrictEqual(received?.frame, frame)) {
      throw new Error(`${JSON.stringify(frame)} came back as ${JSON.stringify(received?.frame)}`);
    }
  }
}
