import type { GodwitError } from '../errors.js';
import type { Frame } from '../protocol/frame.js';

/** A frame that has arrived, with the size of the payload that follows it on the stream. */
export interface ReceivedFrame {
  readonly frame: Frame;
  /** 0 when the frame has none. The payload must be read (`readPayload`) before the next frame. */
  readonly payloadBytes: number;
}

/** A part of a file into which a payload is written with system calls, without mapping the file. */
export interface FileTarget {
  /** The caller keeps it open. */
  readonly fd: number;
  /** The offset in the file, in bytes. */
  readonly position: number;
  /** Bytes. */
  readonly length: number;
}

/** The memory or part of a file into which bytes of a payload are read. */
export type PayloadTarget = Uint8Array | FileTarget;

/**
 * The calls of a frame stream whose carrier blocks the thread until they are done, without promises. They work as the calls of the same
 * names of `FrameStream`, throw what those reject with, and may take turns with them while no call is pending.
 */
export interface BlockingFrames {
  /**
   * Bytes that were read from the carrier and not handed out: while there are some, the carrier may have none for the next frame. Bytes that
   * the carrier itself has read ahead do not count.
   */
  readonly buffered: number;
  /** Waits for the next frame; `null` when the peer has closed its direction between two frames. */
  read(): ReceivedFrame | null;
  /** Fills the chunks with the payload of the last frame. Their lengths, in bytes, must add up to `payloadBytes`. */
  readPayload(into: readonly Uint8Array[]): void;
  /** Returns when the carrier has taken the bytes of the frame, which are borrowed until then. */
  write(frame: Frame, payload?: readonly Uint8Array[]): void;
}

/**
 * One ordered, reliable stream of frames in each direction, over any carrier of bytes.
 *
 * An implementation checks that a frame is well-formed (known type, right field types, lengths within its limits) before `read`
 * resolves with it; the engine checks the values. Errors are `GodwitError`s: `GODWIT_LINK_LOST` when the stream broke or ended inside a
 * frame, `GODWIT_BAD_STREAM` for bytes that are no frame, `GODWIT_LIMIT_EXCEEDED` for a frame that is too large.
 */
export interface FrameStream {
  /**
   * True when every frame has a checksum, in both directions: `read` resolves once the header is verified, and `readPayload` once the
   * payload is; a wrong checksum fails with `GODWIT_LINK_LOST`. An accepted stream knows whether it has checksums from its first frame
   * on. False or undefined: there are none.
   */
  readonly checksums?: boolean;
  /** Bytes of all writes that have resolved, framing included. */
  readonly bytesWritten: number;
  /** Bytes read from the carrier so far. */
  readonly bytesRead: number;
  /**
   * Writes one frame. The chunks of `payload` are written by reference: they are borrowed until the promise settles, and guest memory
   * may change meanwhile. The promise resolves once the carrier has taken the bytes, which is the back-pressure. Calls may overlap;
   * frames never interleave and keep the order of the calls.
   */
  write(frame: Frame, payload?: readonly Uint8Array[]): Promise<void>;
  /** Resolves with the next frame, or with `null` when the peer has closed its direction between two frames. Only one call at a time. */
  read(): Promise<ReceivedFrame | null>;
  /**
   * Reads the payload of the last frame straight into `into`, filling the chunks one after the other. Their lengths
   * must add up to `payloadBytes`. Parts of files may be among them only if `takesFiles`.
   */
  readPayload(into: readonly PayloadTarget[]): Promise<void>;
  /** Whether `readPayload` accepts a `FileTarget`. Default false. */
  readonly takesFiles?: boolean;
  /** Reads the payload of the last frame and discards it. */
  skipPayload(): Promise<void>;
  /** The same calls without promises; only where the carrier's calls block. */
  readonly blocking?: BlockingFrames | undefined;
  /** Ends our direction after everything written; resolves, with the stream closed, once the peer has ended its own. */
  close(): Promise<void>;
  /** Drops the stream at once: pending calls on this side fail with `reason`, those of the peer with a lost link. */
  abort(reason: GodwitError): void;
  /**
   * For a carrier whose started I/O cannot be cancelled (a file that the kernel is writing): resolves, after `close` or `abort`, when no
   * memory is borrowed and no handle is open. Never rejects. A stream without this method borrows nothing once the pending calls have
   * settled.
   */
  settled?(): Promise<void>;
}
