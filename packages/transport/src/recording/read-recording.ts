import { type Frame, GodwitError } from '@godwit/core';
import { hasPayload, parseFields } from '../framing/frame-codec.js';
import { DEFAULT_FRAME_LIMITS, type FrameLimits } from '../framing/frame-limits.js';
import { FrameReader } from '../framing/frame-reader.js';
import { unpackHeaderFields } from '../framing/header-fields.js';
import { ByteSource, type ReadableBytes } from './byte-source.js';
import {
  parseRecordingFrame,
  RECORDING_VERSION,
  type RecordedLink,
  type RecordedMark,
  type RecordedStreamEnd,
  type RecordedTrack,
  type RecordingEnd,
  type RecordingFrame,
  type RecordingHead,
} from './recording-format.js';

/** A frame of the migration. */
export interface RecordedFrame {
  readonly type: 'frame';
  /** The offset of the frame in the file, and its bytes, payload included. */
  readonly offset: number;
  readonly byteLength: number;
  readonly frame: Frame;
  readonly payloadBytes: number;
  /** `undefined` in a stream that was captured without Godwit, which has no such entries. */
  readonly track: RecordedTrack | undefined;
  /** Microseconds since the recording began. */
  readonly atMicros: number | undefined;
  /**
   * Reads the payload into `into`, whose lengths must add up to `payloadBytes`. It may be called only before the next
   * item is asked for; a payload that was not read by then is skipped. Rejects when the file ends inside the payload;
   * the next item is then `broken`.
   */
  readPayload(into: readonly Uint8Array[]): Promise<void>;
}

/** The place at which the file becomes unreadable, and the reason. Always the last item. */
export interface BrokenRecording {
  readonly type: 'broken';
  /** The offset of the frame that could not be read. */
  readonly offset: number;
  readonly error: GodwitError;
}

/** An item of `readRecording`, in the order of the file; `broken` is always the last one. */
export type RecordedItem =
  | ((RecordingHead | RecordedLink | RecordedStreamEnd | RecordingEnd) & { readonly offset: number })
  | RecordedFrame
  | BrokenRecording;

type AnyFrame = RecordingFrame | Frame;

/** A payload is never held in memory, so it may be as long as its encoding allows. */
const LIMITS: FrameLimits = { ...DEFAULT_FRAME_LIMITS, maximumPayloadBytes: 2 ** 32 - 1 };

const OWN_TYPES: ReadonlySet<string> = new Set<RecordingFrame['type']>([
  'recording',
  'link',
  'recorded',
  'streamEnd',
  'recordingEnd',
]);

/**
 * Reads a file that `recordTo` has written, or the bytes of one bare stream (a capture of a control stream or page
 * channel). Memory is bounded whatever the bytes are: one header of at most 1 MiB, and a buffer of 256 KiB.
 *
 * Malformed bytes never make it throw: an item `broken` then has the place and the reason, and is the last one. A
 * recording that lacks its end is broken at its last byte. Errors of `bytes` itself are passed on.
 *
 * @example
 * for await (const item of readRecording(createReadStream('migration.godwit'))) {
 *   if (item.type === 'frame') console.log(item.offset, item.frame.type);
 * }
 */
export async function* readRecording(bytes: ReadableBytes): AsyncGenerator<RecordedItem, void, undefined> {
  const source = new ByteSource(bytes);
  const reader = new FrameReader<AnyFrame>(source, LIMITS, {
    parse: (header, limits) => {
      const fields = unpackHeaderFields(header);
      return parseRecordingFrame(fields) ?? parseFields(fields, limits);
    },
    hasPayload: (frame) => !isOwn(frame) && hasPayload(frame),
  });
  let offset = 0;
  try {
    let first = true;
    let recording = false;
    let ended = false;
    let mark: RecordedMark | undefined;
    for (;;) {
      offset = reader.position;
      const received = await reader.read();
      if (received === null) {
        if (recording && !ended) throw endMissing(mark);
        if (first) throw new GodwitError('GODWIT_BAD_STREAM', 'there is nothing in it');
        return;
      }
      const { frame, payloadBytes } = received;
      if (first) recording = frame.type === 'recording';
      checkPlace(frame, { first, recording, ended, marked: mark !== undefined });
      first = false;
      if (!isOwn(frame)) {
        const start = reader.position;
        yield {
          type: 'frame',
          offset,
          byteLength: start - offset + payloadBytes,
          frame,
          payloadBytes,
          track: mark && { link: mark.link, stream: mark.stream, sender: mark.sender },
          atMicros: mark?.atMicros,
          readPayload: (into) => reader.readPayload(into),
        };
        mark = undefined;
        await reader.skipPayload();
      } else if (frame.type === 'recorded') {
        mark = frame;
      } else {
        ended = frame.type === 'recordingEnd';
        yield { ...frame, offset };
      }
    }
  } catch (error) {
    if (source.failure !== undefined) throw source.failure.error;
    yield { type: 'broken', offset, error: explained(error, reader, offset) };
  } finally {
    await source.close();
  }
}

function isOwn(frame: AnyFrame): frame is RecordingFrame {
  return OWN_TYPES.has(frame.type);
}

interface Place {
  readonly first: boolean;
  readonly recording: boolean;
  readonly ended: boolean;
  readonly marked: boolean;
}

function checkPlace(frame: AnyFrame, { first, recording, ended, marked }: Place): void {
  const bad = (message: string): GodwitError => new GodwitError('GODWIT_BAD_STREAM', message);
  if (ended) throw bad(`a ${frame.type} frame follows the end of the recording`);
  if (!isOwn(frame)) {
    if (recording && !marked) throw bad(`a ${frame.type} frame without a "recorded" frame before it`);
    return;
  }
  if (marked) throw bad(`a "recorded" frame announces a frame of the migration, but a ${frame.type} frame follows`);
  if (!recording) throw bad(`a ${frame.type} frame outside of a recording`);
  if (frame.type !== 'recording') return;
  if (!first) throw bad('a second "recording" frame');
  if (frame.version !== RECORDING_VERSION) {
    throw new GodwitError(
      'GODWIT_VERSION_MISMATCH',
      `a recording of version ${frame.version} by ${frame.software}; this program reads version ${RECORDING_VERSION}`,
    );
  }
}

function endMissing(mark: unknown): GodwitError {
  const where = mark === undefined ? 'between two frames' : 'inside a frame';
  return new GodwitError(
    'GODWIT_LINK_LOST',
    `the recording stops ${where}, without its end: it was cut off, or its process ended before \`close\``,
  );
}

/** Rewords the error of a lost stream: a file is truncated instead. */
function explained(error: unknown, reader: FrameReader<AnyFrame>, offset: number): GodwitError {
  const failure = GodwitError.wrap(error, 'GODWIT_INTERNAL', 'reading the recording failed');
  if (failure.code !== 'GODWIT_LINK_LOST' || failure.message.startsWith('the recording stops')) return failure;
  const message = `it ends at byte ${reader.bytesRead}, inside the frame that starts at byte ${offset}`;
  return new GodwitError('GODWIT_LINK_LOST', message, { cause: failure });
}
