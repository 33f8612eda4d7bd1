import type { ErrorCode, Frame, FrameName, HelloFrame, MovedRunState } from '@godwit/core';
import type { RecordedTrack, Sender } from '@godwit/transport';

/** The pages of a round, by how they were sent. */
export interface PagesBySort {
  raw: number;
  zero: number;
  delta: number;
  compressed: number;
}

/** The totals of one frame type. Bytes include framing and payload. */
export interface FrameTally {
  count: number;
  bytes: number;
}

/** How a stop-and-copy ended: by `go`, by `back`, or with its connection; `none` if the file does not tell. */
export type AttemptEnd = 'go' | 'back' | 'connection' | 'none';

/** What happened to the guest, as far as the file tells it. */
export type Outcome =
  /**
   * The destination reported that it has the guest. Whether the guest was to run or to stay paused is given if the file
   * tells.
   */
  | {
      readonly type: 'running';
      readonly runState: MovedRunState | undefined;
      /** By post-copy: the file does not show that all of the guest's pages have come. */
      readonly incomplete?: true;
    }
  /** `go` was sent; the destination's answer is not in the file. */
  | { readonly type: 'handed over' }
  /** One side gave up the migration. */
  | { readonly type: 'failed'; readonly by: Sender | undefined; readonly code: string; readonly message: string }
  /** The file is a snapshot: the guest was saved in it. */
  | { readonly type: 'saved' }
  /** The file ends before any of these outcomes. */
  | { readonly type: 'unfinished' };

/**
 * One thing that an inspection has found, in the order of the file. `offset` is where its frame starts, in bytes;
 * `atMs` is milliseconds since the recording began, where the file has times.
 */
export type Finding =
  | { readonly event: 'recording'; readonly offset: number; readonly startedAt: string; readonly software: string }
  /** The file is a snapshot; the source's description of itself. `offset` is where the metadata starts. */
  | {
      readonly event: 'snapshot';
      readonly offset: number;
      readonly fileBytes: number;
      readonly hello: HelloFrame;
      readonly runState: MovedRunState;
    }
  /** Where the pages of a snapshot's RAM block start; pages that are not in the file are zero. */
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
  /** A frame; reported for every frame, if that was asked for. */
  | {
      readonly event: 'frame';
      readonly offset: number;
      readonly byteLength: number;
      readonly payloadBytes: number;
      readonly atMs: number | undefined;
      readonly track: RecordedTrack | undefined;
      readonly frame: Frame;
    }
  /** A frame that is reported on its own: a hello, `go`, an error. */
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
  /** The totals of an urgent channel, if one was used. Its pages belong to no round. */
  | {
      readonly event: 'urgent';
      readonly link: number;
      readonly requests: number;
      /** Pages that the destination has asked for. */
      readonly requestedPages: number;
      /** Pages of all answers, including pages that were not asked for. */
      readonly pages: number;
      /** Bytes in both directions, including framing and payload. */
      readonly bytes: number;
    }
  /** A device has sent its last piece. Its pieces and bytes are those of pre-copy and of this attempt, on this link. */
  | {
      readonly event: 'device';
      readonly link: number;
      readonly id: string;
      /** The number of the attempt; 0 in a snapshot. */
      readonly attempt: number;
      readonly pieces: number;
      readonly bytes: number;
    }
  /** A stop-and-copy. It lasts from its first frame to its `go`, or to the frame or event that gave it up. */
  | {
      readonly event: 'attempt';
      readonly link: number;
      readonly attempt: number;
      readonly end: AttemptEnd;
      readonly durationMs: number | undefined;
      readonly deviceBytes: number;
    }
  /** One direction of a stream did not end in an orderly way. */
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
  /** The rest of the file cannot be read. */
  | { readonly event: 'broken'; readonly offset: number; readonly code: ErrorCode; readonly message: string }
  | InspectionSummary;

/** The last finding of an inspection: what the whole file has. */
export interface InspectionSummary {
  readonly event: 'summary';
  /**
   * Whether the file is complete and valid: it can be read to its end, has a mark of the end there, and every frame
   * obeys the protocol.
   */
  readonly whole: boolean;
  readonly violations: number;
  /** Parts of a snapshot that do not match their checksums. */
  readonly damages: number;
  readonly frames: Readonly<Partial<Record<FrameName, FrameTally>>>;
  /** Pages of rounds. */
  readonly pages: Readonly<PagesBySort>;
  /** Pages of urgent channels. */
  readonly urgentPages: number;
  readonly bytes: number;
  /** Stop-and-copies of which at least one frame was sent. */
  readonly attempts: number;
  /** The stop-and-copies that the source has given up, to go on with pre-copy. */
  readonly wentBack: number;
  readonly outcome: Outcome;
}
