import type { GodwitError } from '../errors.js';
import type { Frame } from '../protocol/frame.js';

/** A frame that has arrived, with the size of the payload that follows it on the stream. */
export interface ReceivedFrame {
  readonly frame: Frame;
  /** 0 when the frame has none. The payload must be read (`readPayload`) before the next frame. */
  readonly payloadBytes: number;
}

/**
 * One ordered, reliable stream of frames in each direction, over whatever carries bytes.
 *
 * An implementation checks that a frame is well-formed (known type, right field types, lengths within its limits)
 * before it hands it out; the engine checks what the values mean. Errors are `GodwitError`s:
 * `GODWIT_LINK_LOST` when the stream broke or ended inside a frame, `GODWIT_BAD_STREAM` for bytes that are no frame,
 * `GODWIT_LIMIT_EXCEEDED` for one that is too large.
 */
export interface FrameStream {
  /**
   * True where the sender's bytes are compared with a checksum, in both directions: a frame is handed out once its header
   * is known to be right, and `readPayload` resolves once the payload is. One that is not fails with `GODWIT_LINK_LOST`. A
   * stream that was accepted knows it from its first frame on. Missing: it cannot.
   */
  readonly checksums?: boolean;
  /** Bytes of all writes that have resolved, framing included. */
  readonly bytesWritten: number;
  /** Bytes taken from the carrier so far. */
  readonly bytesRead: number;
  /**
   * Writes one frame. The chunks of `payload` are written by reference: they are borrowed until the promise resolves,
   * and guest memory may change under them meanwhile. That it resolves late is the back-pressure. Calls may overlap;
   * frames never interleave and keep the order of the calls.
   */
  write(frame: Frame, payload?: readonly Uint8Array[]): Promise<void>;
  /** The next frame, or `null` when the peer has closed its direction between two frames. One call at a time. */
  read(): Promise<ReceivedFrame | null>;
  /**
   * Reads the payload of the last frame straight into `into`, filling the chunks one after the other. Their lengths
   * must add up to `payloadBytes`.
   */
  readPayload(into: readonly Uint8Array[]): Promise<void>;
  /** Reads the payload of the last frame and throws it away. */
  skipPayload(): Promise<void>;
  /** Ends our direction after everything written, and lets go of the stream once the peer has ended its own. */
  close(): Promise<void>;
  /** Drops the stream at once: pending calls on this side fail with `reason`, the peer sees a lost link. */
  abort(reason: GodwitError): void;
  /**
   * For a carrier that cannot take back what it has begun (a file: the kernel is at it): resolves, after `close` or
   * `abort`, when nothing is borrowed any more and no handle is open. Never rejects. Without this method both are so as
   * soon as the pending calls have settled.
   */
  settled?(): Promise<void>;
}
