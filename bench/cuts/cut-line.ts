import { type Frame, type FrameStream, GodwitError, type LinkConnector } from '@godwit/core';
import { type ByteStream, connectTo, type Transport } from '@godwit/transport';

/** What one connection of a migration has carried. */
interface Carried {
  /** Bytes that the source has handed to the carrier, on all streams. */
  handed: number;
  /** Pages of the round at hand that the destination has named when it was found again. */
  namedPages: number;
}

/** A source's way to its destination, which is cut each time that so many bytes have been handed to it. */
export class CutLine {
  readonly connector: LinkConnector;
  readonly connections: Carried[] = [];
  readonly #streams = new Set<ByteStream>();
  #left: number;
  readonly #every: number;
  #cuts: number;

  /** Cuts `cuts` times, every `bytes` bytes. */
  constructor(transport: Transport, cuts: number, bytes: number) {
    this.#cuts = cuts;
    this.#every = bytes;
    this.#left = bytes;
    const links = connectTo({
      listen: (signal) => transport.listen(signal),
      connect: async (signal) => this.#counted(await transport.connect(signal)),
    });
    this.connector = {
      connect: async (request, signal) => {
        this.#streams.clear();
        this.connections.push({ handed: 0, namedPages: 0 });
        const link = await links.connect(request, signal);
        const control = watched(link.control, (frame) => {
          if (frame.type === 'received') this.#named(frame.runs);
        });
        return { ...link, control };
      },
    };
  }

  get handed(): number {
    return this.connections.reduce((sum, { handed }) => sum + handed, 0);
  }

  /** For each cut, the bytes that had been handed over and were not in the destination's memory in whole frames. */
  inFlight(pageSize: number): number[] {
    return this.connections.slice(0, -1).map(({ handed, namedPages: before }, i) => {
      const { namedPages } = this.connections[i + 1] as Carried;
      return handed - (namedPages - before) * pageSize;
    });
  }

  #named(runs: readonly number[]): void {
    const current = this.connections.at(-1) as Carried;
    for (let i = 1; i < runs.length; i += 2) current.namedPages += runs[i] as number;
  }

  #counted(stream: ByteStream): ByteStream {
    const carried = this.connections.at(-1) as Carried;
    this.#streams.add(stream);
    return {
      peer: stream.peer,
      read: (into, wanted) => stream.read(into, wanted),
      close: () => stream.close(),
      abort: (reason) => stream.abort(reason),
      write: (chunks) => {
        for (const chunk of chunks) {
          carried.handed += chunk.length;
          this.#left -= chunk.length;
        }
        const writing = stream.write(chunks);
        if (this.#left <= 0 && this.#cuts > 0) this.#cut();
        return writing;
      },
    };
  }

  #cut(): void {
    this.#cuts--;
    this.#left = this.#every;
    const reason = new GodwitError('GODWIT_LINK_LOST', 'cut for the benchmark');
    for (const stream of this.#streams) stream.abort(reason);
  }
}

/** A control stream whose incoming frames are looked at. */
function watched(stream: FrameStream, onFrame: (frame: Frame) => void): FrameStream {
  return {
    get bytesRead() {
      return stream.bytesRead;
    },
    get bytesWritten() {
      return stream.bytesWritten;
    },
    async read() {
      const received = await stream.read();
      if (received !== null) onFrame(received.frame);
      return received;
    },
    write: (frame, payload) => stream.write(frame, payload),
    readPayload: (into) => stream.readPayload(into),
    skipPayload: () => stream.skipPayload(),
    close: () => stream.close(),
    abort: (reason) => stream.abort(reason),
  };
}
