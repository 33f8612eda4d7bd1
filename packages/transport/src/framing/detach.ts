import type { FrameStream } from '@godwit/core/pages';
import type { DetachedDescriptor } from '../stream/byte-stream.js';
import type { ChecksumState } from './checksum.js';

/** A frame stream taken apart: its connection, and what it has carried so far. */
export interface DetachedStream extends DetachedDescriptor {
  /** For `FrameStreamOptions.checksums`, where the stream goes on. */
  readonly checksums: ChecksumState;
  readonly bytesWritten: number;
  readonly bytesRead: number;
}

/** `peeked`: one frame was asked for that nobody has seen; if it has come, it belongs to what is unread. */
export interface Detachable {
  detach(duplicate: (fd: number) => number, peeked?: boolean): DetachedStream | undefined;
}

/**
 * Gives the connection of a frame stream away, as `ByteStream.detach` does: not one byte is lost, whatever has been read
 * ahead. `undefined` when the stream cannot live outside of this thread; it is then as it was.
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
