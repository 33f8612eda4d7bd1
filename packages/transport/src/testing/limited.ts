import type { ByteStream, Transport } from '../stream/byte-stream.js';

/** Bytes between two readings of the clock, and how many milliseconds of bytes may be queued, as in a network card. */
const PIECE_BYTES = 64 * 2 ** 10;
const QUEUE_MS = 2;

/**
 * A transport whose streams send at most `bytesPerSecond` to the listener, and without a limit in the other direction.
 *
 * @example
 * const connector = connectTo(limited(tcp({ port }), 125_000_000)); // 1 Gbit/s
 */
export function limited(transport: Transport, bytesPerSecond: number): Transport {
  return {
    listen: (signal) => transport.listen(signal),
    connect: async (signal) => slowed(await transport.connect(signal), bytesPerSecond),
  };
}

/**
 * A stream whose writes resolve when a card of that rate would have sent their bytes, which is the back-pressure of a slow link.
 */
function slowed(stream: ByteStream, bytesPerSecond: number): ByteStream {
  let last: Promise<unknown> = Promise.resolve();
  /** The time, of `performance.now`, at which the bytes that were written so far will have been sent. */
  let busyUntil = 0;

  async function write(chunks: readonly Uint8Array[]): Promise<void> {
    let piece: Uint8Array[] = [];
    let room = PIECE_BYTES;
    const flush = async () => {
      const bytes = PIECE_BYTES - room;
      busyUntil = Math.max(busyUntil, performance.now()) + (bytes / bytesPerSecond) * 1000;
      const early = busyUntil - performance.now() - QUEUE_MS;
      if (early > 0) await new Promise((resolve) => setTimeout(resolve, early));
      await stream.write(piece);
      piece = [];
      room = PIECE_BYTES;
    };
    for (const chunk of chunks) {
      for (let at = 0; at < chunk.length; ) {
        const part = chunk.subarray(at, at + room);
        piece.push(part);
        at += part.length;
        room -= part.length;
        if (room === 0) await flush();
      }
    }
    if (piece.length > 0) await flush();
  }

  return {
    peer: stream.peer,
    write(chunks) {
      const own = last.then(() => write(chunks));
      last = own.catch(() => {});
      return own;
    },
    read: (into, wanted) => stream.read(into, wanted),
    close: () => last.then(() => stream.close()),
    abort: (reason) => stream.abort(reason),
  };
}
