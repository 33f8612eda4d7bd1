import { GodwitError } from '@godwit/core';
import { FieldReader } from '../framing/field-reader.js';
import { frameHead } from '../framing/frame-head.js';
import { packHeaderFields } from '../framing/header-fields.js';
import { integer } from '../framing/portable-value.js';

/**
 * Frames that are only in recordings, between those of the migration. Their numbers are frozen like those of
 * `FRAME_TYPES`; on a wire they are unknown types, and refused. `docs/wire-format.md` says the same in words.
 */
export const RECORDING_TYPES = {
  /** First frame of the file. */
  recording: 128,
  /** A link was made, with its number `link`. */
  link: 129,
  /** The next frame is one of the migration; this one has its stream, sender and time. */
  recorded: 130,
  /** One direction of a stream has ended. */
  streamEnd: 131,
  /** Last frame of the file. */
  recordingEnd: 132,
} as const;

export const RECORDING_VERSION = 1;

/** The side that sends. */
export type Sender = 'source' | 'destination';

/** The path of a frame through a link. */
export interface RecordedTrack {
  /** 0 for the first link of the recording; a reconnection is another one. */
  readonly link: number;
  /** 0 is the control stream, `n` is page channel `n` - 1. */
  readonly stream: number;
  readonly sender: Sender;
}

/** The first frame of a recording. */
export interface RecordingHead {
  readonly type: 'recording';
  readonly version: number;
  readonly software: string;
  /** Milliseconds since 1970; all other times count from here. */
  readonly startedAt: number;
}

/** A link was made. */
export interface RecordedLink {
  readonly type: 'link';
  readonly link: number;
  /** The side that made the recording. */
  readonly side: Sender;
  readonly peer: string;
  readonly atMicros: number;
}

export interface RecordedMark extends RecordedTrack {
  readonly type: 'recorded';
  readonly atMicros: number;
}

export interface RecordedStreamEnd extends RecordedTrack {
  readonly type: 'streamEnd';
  readonly atMicros: number;
  /** The reason, when the direction was not ended in order: frames before this one may not have arrived. */
  readonly error: RecordedError | undefined;
}

/** The last frame of a recording. */
export interface RecordingEnd {
  readonly type: 'recordingEnd';
  readonly atMicros: number;
  /** Frames of the migration in this file. */
  readonly frames: number;
  /**
   * The reason why the recording ended before the migration: all entries before this one are complete, and later ones
   * are missing.
   */
  readonly error: RecordedError | undefined;
}

/** The reason of an end. */
export interface RecordedError {
  readonly code: string;
  readonly message: string;
}

export type RecordingFrame = RecordingHead | RecordedLink | RecordedMark | RecordedStreamEnd | RecordingEnd;

const LONGEST_NAME = 255;
const LONGEST_CODE = 64;
const LONGEST_MESSAGE = 4096;
const MOST_LINKS = 2 ** 32 - 1;
const MOST_STREAMS = 1024;

/** The whole frame, as it is in the file. */
export function packRecordingFrame(frame: RecordingFrame): Uint8Array {
  return frameHead(packHeaderFields([RECORDING_TYPES[frame.type], ...fieldsOf(frame)]), undefined);
}

/** Reads a header; returns `undefined` for one that is not a recording's own. */
export function parseRecordingFrame(header: readonly unknown[]): RecordingFrame | undefined {
  const read = (name: string): FieldReader => new FieldReader(name, header, 1);
  switch (header[0]) {
    case RECORDING_TYPES.recording: {
      const fields = read('recording');
      return {
        type: 'recording',
        version: fields.uint('version'),
        software: fields.string('software', LONGEST_NAME),
        startedAt: fields.uint('startedAt'),
      };
    }
    case RECORDING_TYPES.link: {
      const fields = read('link');
      return {
        type: 'link',
        link: fields.uint('link', MOST_LINKS),
        side: sender(fields, 'side'),
        peer: fields.string('peer', LONGEST_MESSAGE),
        atMicros: fields.uint('atMicros'),
      };
    }
    case RECORDING_TYPES.recorded: {
      const fields = read('recorded');
      return { type: 'recorded', ...track(fields), atMicros: fields.uint('atMicros') };
    }
    case RECORDING_TYPES.streamEnd: {
      const fields = read('streamEnd');
      return { type: 'streamEnd', ...track(fields), atMicros: fields.uint('atMicros'), error: error(fields) };
    }
    case RECORDING_TYPES.recordingEnd: {
      const fields = read('recordingEnd');
      return {
        type: 'recordingEnd',
        atMicros: fields.uint('atMicros'),
        frames: fields.uint('frames'),
        error: error(fields),
      };
    }
    default:
      return undefined;
  }
}

function fieldsOf(frame: RecordingFrame): unknown[] {
  switch (frame.type) {
    case 'recording':
      return [frame.version, frame.software, integer(frame.startedAt)];
    case 'link':
      return [frame.link, letter(frame.side), frame.peer.slice(0, LONGEST_MESSAGE), integer(frame.atMicros)];
    case 'recorded':
      return [frame.link, frame.stream, letter(frame.sender), integer(frame.atMicros)];
    case 'streamEnd':
      return [frame.link, frame.stream, letter(frame.sender), integer(frame.atMicros), ...errorFields(frame.error)];
    case 'recordingEnd':
      return [integer(frame.atMicros), integer(frame.frames), ...errorFields(frame.error)];
  }
}

function errorFields(error: RecordedError | undefined): [string | null, string | null] {
  return error === undefined
    ? [null, null]
    : [error.code.slice(0, LONGEST_CODE), error.message.slice(0, LONGEST_MESSAGE)];
}

function letter(side: Sender): string {
  return side === 'source' ? 'S' : 'D';
}

function track(fields: FieldReader): RecordedTrack {
  return {
    link: fields.uint('link', MOST_LINKS),
    stream: fields.uint('stream', MOST_STREAMS),
    sender: sender(fields, 'sender'),
  };
}

function sender(fields: FieldReader, name: string): Sender {
  const value = fields.string(name, 1);
  if (value === 'S') return 'source';
  if (value === 'D') return 'destination';
  throw fields.bad(name, '"S" or "D"', value);
}

function error(fields: FieldReader): RecordedError | undefined {
  const code = fields.any();
  const message = fields.any();
  if (code === null && message === null) return undefined;
  if (typeof code === 'string' && code.length <= LONGEST_CODE) {
    if (typeof message === 'string' && message.length <= LONGEST_MESSAGE) return { code, message };
  }
  throw new GodwitError('GODWIT_BAD_STREAM', 'the error of a recording must be two strings, or nil and nil');
}
