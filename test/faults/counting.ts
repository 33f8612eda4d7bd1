import type { ByteStream, Transport } from '@godwit/transport';

/** Bytes that crossed the first stream of a transport. */
export interface ByteCount {
  out: number;
  in: number;
}

/** Wraps a transport and counts the bytes of its first stream (the control stream). */
export function counting(transport: Transport, count: ByteCount): Transport {
  let streams = 0;
  return {
    listen: (signal) => transport.listen(signal),
    async connect(signal) {
      const stream = await transport.connect(signal);
      return streams++ === 0 ? counted(stream, count) : stream;
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
