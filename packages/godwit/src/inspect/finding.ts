import type { ErrorCode, Frame, FrameName, HelloFrame, MovedRunState } from '@godwit/core';
import type { RecordedTrack, Sender } from '@godwit/transport';

/** Pages of a round by how they were sent. */
export interface PagesBySort {
  raw: number;
  zero: number;
  delta: number;
  compressed: number;
}

/** What one frame type amounts to. Bytes with framing and payload. */
export interface FrameTally {
  count: number;
  bytes: number;
}

/** How a stop-and-copy ended: by `go`, by `back`, with its connection; or the file does not tell. */
export type AttemptEnd = 'go' | 'back' | 'connection' | 'none';

/** What happened to the guest, as far as the file tells. */
export type Outcome =
  /** The destination said that the guest is there; whether it was to run or to stay paused, where the file tells. */
  | {
      readonly type: 'running';
      readonly runState: MovedRunState | undefined;
      /** By post-copy: the file does not say that all of its pages have come. */
      readonly incomplete?: true;
    }
  /** `go` was sent; what the destination made of it is not in the file. */
  | { readonly type: 'handed over' }
  /** One side gave up. */
  | { readonly type: 'failed'; readonly by: Sender | undefined; readonly code: string; readonly message: string }
  /** The file is a snapshot: the guest was saved in it. */
  | { readonly type: 'saved' }
  /** The file ends before any of these. */
  | { readonly type: 'unfinished' };

/**
 * One thing that an inspection has found, in the order of the file. `offset` is where its frame starts, in bytes;
 * `atMs` is milliseconds since the recording began, where the file knows.
 */
export type Finding =
  | { readonly event: 'recording'; readonly offset: number; readonly startedAt: string; readonly software: string }
  /** The file is a snapshot; what the source said of itself. `offset` is where its metadata starts. */
  | {
      readonly event: 'snapshot';
      readonly offset: number;
      readonly fileBytes: number;
      readonly hello: HelloFrame;
      readonly runState: MovedRunState;
    }
  /** Where the pages of a snapshot's RAM block start; all but the present ones are zero. */
  | {
      readonly event: 'block';
      readonly offset: number;
      readonly id: string;
      readonly pages: number;
      readonly present: number;
    }
  | {
      readonly event: 'link';
      readonly offset: number;
      readonly atMs: number;
      readonly link: number;
      readonly side: Sender;
      readonly peer: string;
    }
  /** Every frame, where that was asked for. */
  | {
      readonly event: 'frame';
      readonly offset: number;
      readonly byteLength: number;
      readonly payloadBytes: number;
      readonly atMs: number | undefined;
      readonly track: RecordedTrack | undefined;
      readonly frame: Frame;
    }
  /** A frame that matters by itself: a hello, `go`, an error. */
  | {
      readonly event: 'message';
      readonly offset: number;
      readonly atMs: number | undefined;
      readonly track: RecordedTrack | undefined;
      readonly frame: Frame;
    }
  | {
      readonly event: 'round';
      readonly link: number;
      readonly round: number;
      readonly pages: Readonly<PagesBySort>;
      readonly frames: number;
      readonly bytes: number;
      /** The destination's count; `undefined` when the file has no acknowledgement. */
      readonly acknowledged: number | undefined;
      readonly durationMs: number | undefined;
    }
  /** What an urgent channel has carried, where there is one that was used. Its pages belong to no round. */
  | {
      readonly event: 'urgent';
      readonly link: number;
      readonly requests: number;
      /** Pages that the destination has asked for. */
      readonly requestedPages: number;
      /** Pages of all answers, those that were not asked for included. */
      readonly pages: number;
      /** With framing and payload, in both directions. */
      readonly bytes: number;
    }
  /** A device has sent its last piece. Pieces and bytes of pre-copy and of this attempt, on this link. */
  | {
      readonly event: 'device';
      readonly link: number;
      readonly id: string;
      /** 0 in a snapshot. */
      readonly attempt: number;
      readonly pieces: number;
      readonly bytes: number;
    }
  /** A stop-and-copy. It lasts from its first frame to its `go`, or to what gave it up. */
  | {
      readonly event: 'attempt';
      readonly link: number;
      readonly attempt: number;
      readonly end: AttemptEnd;
      readonly durationMs: number | undefined;
      readonly deviceBytes: number;
    }
  /** One direction of a stream ended otherwise than in order. */
  | {
      readonly event: 'lost';
      readonly offset: number;
      readonly atMs: number;
      readonly track: RecordedTrack;
      readonly code: string;
      readonly message: string;
    }
  /** A part of a snapshot does not match its checksum. The inspection goes on. */
  | { readonly event: 'damage'; readonly offset: number; readonly message: string }
  /** A frame that is well-formed but breaks the protocol. The inspection goes on. */
  | { readonly event: 'violation'; readonly offset: number; readonly message: string }
  /** What follows cannot be read. */
  | { readonly event: 'broken'; readonly offset: number; readonly code: ErrorCode; readonly message: string }
  | InspectionSummary;

export interface InspectionSummary {
  readonly event: 'summary';
  /** The file can be read to its end, says that this is its end, and every frame obeys the protocol. */
  readonly whole: boolean;
  readonly violations: number;
  /** Parts of a snapshot that do not match their checksums. */
  readonly damages: number;
  readonly frames: Readonly<Partial<Record<FrameName, FrameTally>>>;
  /** Those of rounds. */
  readonly pages: Readonly<PagesBySort>;
  /** Pages of urgent channels. */
  readonly urgentPages: number;
  readonly bytes: number;
  /** Stop-and-copies of which something was sent. */
  readonly attempts: number;
  /** Those of them that the source has given up, to go on with pre-copy. */
  readonly wentBack: number;
  readonly outcome: Outcome;
}
