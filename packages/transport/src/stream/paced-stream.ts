import { GodwitError } from '@godwit/core';
import type { ByteStream } from './byte-stream.js';

/**
 * Hands large writes to `stream` in pieces, one after the other: for carriers that copy or encrypt all of a write at
 * once, so that the caller would determine how much memory they take and how long they block the event loop.
 */
export function paced(stream: ByteStream, pieceBytes: number): ByteStream {
  let last: Promise<void> | undefined;
  let closing: Promise<void> | undefined;
  let aborted = false;

  async function inPieces(chunks: readonly Uint8Array[]): Promise<void> {
    let piece: Uint8Array[] = [];
    let room = pieceBytes;
    for (const chunk of chunks) {
      for (let at = 0; at < chunk.length; ) {
        const part = chunk.subarray(at, at + room);
        piece.push(part);
        at += part.length;
        room -= part.length;
        if (room > 0) continue;
        await stream.write(piece);
        piece = [];
        room = pieceBytes;
      }
    }
    if (piece.length > 0) await stream.write(piece);
  }

  return {
    peer: stream.peer,
    write(chunks) {
      if (closing !== undefined && !aborted) {
        return Promise.reject(
          new GodwitError('GODWIT_INVALID_STATE', `the stream to ${stream.peer} is closed for writing`),
        );
      }
      let total = 0;
      for (const chunk of chunks) total += chunk.length;
      if (last === undefined && total <= pieceBytes) return stream.write(chunks);
      const before = last ?? Promise.resolve();
      const own = before.then(() => inPieces(chunks));
      // The next write waits until this one has settled, but does not fail because of it.
      const settled = own
        .catch(() => undefined)
        .finally(() => {
          if (last === settled) last = undefined;
        });
      last = settled;
      return own;
    },
    read: (into, wanted) => stream.read(into, wanted),
    get pendingBytes() {
      return stream.pendingBytes ?? 0;
    },
    close() {
      closing ??= (last ?? Promise.resolve()).then(() => stream.close());
      return closing;
    },
    abort(reason) {
      aborted = true;
      stream.abort(reason);
    },
  };
}
