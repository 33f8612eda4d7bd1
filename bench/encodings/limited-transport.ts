import type { ByteStream, Transport } from '@godwit/transport';

/** Bytes between two looks at the clock, and how far the link may be behind it: the queue of a network card. */
const PIECE_BYTES = 64 * 2 ** 10;
const QUEUE_MS = 2;

/** A transport whose streams carry so many bytes a second towards the listener, and as many as they can the other way. */
export function limited(transport: Transport, bytesPerSecond: number): Transport {
  return {
    listen: (signal) => transport.listen(signal),
    connect: async (signal) => slowed(await transport.connect(signal), bytesPerSecond),
  };
}

/** A write has ended when its bytes would have left the card: back-pressure as a slow link makes it. */
function slowed(stream: ByteStream, bytesPerSecond: number): ByteStream {
  let last: Promise<unknown> = Promise.resolve();
  /** When what was written so far will have left. */
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
