import type { ByteStream, Transport } from '@godwit/transport';

/** Bytes of a piece: a few milliseconds on the links of these tests. */
const PIECE_BYTES = 64 * 2 ** 10;

/** A transport that carries so many bytes a second to the listener: a write ends when its bytes would have gone out. */
export function slowTransport(transport: Transport, bytesPerSecond: number): Transport {
  return { ...transport, connect: async (signal) => slowed(await transport.connect(signal), bytesPerSecond) };
}

function slowed(stream: ByteStream, bytesPerSecond: number): ByteStream {
  let last: Promise<unknown> = Promise.resolve();
  /** When all that was written will have gone out. */
  let busyUntil = performance.now();

  async function write(chunks: readonly Uint8Array[]): Promise<void> {
    for (const chunk of chunks) {
      for (let at = 0; at < chunk.length; at += PIECE_BYTES) {
        const piece = chunk.subarray(at, at + PIECE_BYTES);
        busyUntil = Math.max(busyUntil, performance.now() - 20) + (piece.length / bytesPerSecond) * 1000;
        const early = busyUntil - performance.now();
        if (early > 1) await new Promise((resolve) => setTimeout(resolve, early));
        await stream.write([piece]);
      }
    }
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
