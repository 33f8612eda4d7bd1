import type { FrameStream } from '@godwit/core/pages';
import type { DetachedDescriptor } from '../stream/byte-stream.js';
import type { ChecksumState } from './checksum.js';

/** The parts of a detached frame stream: its connection, and the state of its checksums. */
export interface DetachedStream extends DetachedDescriptor {
  /** The value of `FrameStreamOptions.checksums` where the stream is continued. */
  readonly checksums: ChecksumState;
  readonly bytesWritten: number;
  readonly bytesRead: number;
}

/**
 * `peeked`: a `read` was made whose frame was not handed out yet; if the frame has come, it belongs to the unread bytes.
 */
export interface Detachable {
  detach(duplicate: (fd: number) => number, peeked?: boolean): DetachedStream | undefined;
}

/**
 * Gives the connection of a frame stream away, as `ByteStream.detach` does: not one byte is lost, whatever was read
 * ahead. Returns `undefined`, and changes nothing, when the stream cannot be moved to another thread.
 *
 * @example
 * const detached = detachStream(stream, duplicateFd);
 * if (detached !== undefined) worker.postMessage(detached);
 */
export function detachStream(
  stream: FrameStream & Partial<Detachable>,
  duplicate: (fd: number) => number,
): DetachedStream | undefined {
  return stream.detach?.(duplicate);
}

export function concatenate(pieces: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(byteLength(pieces));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}

export function byteLength(pieces: readonly Uint8Array[]): number {
  let total = 0;
  for (const piece of pieces) total += piece.length;
  return total;
}
