import type { ByteStream, Transport } from '@godwit/transport';

/** Bytes that crossed a stream of a transport. */
export interface ByteCount {
  out: number;
  in: number;
}

/**
 * Wraps a transport and counts the bytes of its streams, in the order in which they were made. The first one is the control stream.
 */
export function counting(transport: Transport, counts: ByteCount[]): Transport {
  return {
    listen: (signal) => transport.listen(signal),
    async connect(signal) {
      const stream = await transport.connect(signal);
      const count: ByteCount = { out: 0, in: 0 };
      counts.push(count);
      return counted(stream, count);
    },
  };
}

function counted(stream: ByteStream, count: ByteCount): ByteStream {
  return {
    peer: stream.peer,
    async write(chunks) {
      await stream.write(chunks);
      for (const chunk of chunks) count.out += chunk.length;
    },
    async read(into, wanted) {
      const bytes = await stream.read(into, wanted);
      count.in += bytes;
      return bytes;
    },
    close: () => stream.close(),
    abort: (reason) => stream.abort(reason),
  };
}
