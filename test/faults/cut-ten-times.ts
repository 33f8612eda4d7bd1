import { randomFillSync } from 'node:crypto';
import { type MigratableVm, migrate, receive, reclaim, SoftwareTracker } from '@godwit/core';
import { createGuestMemory, type MappedGuestMemory } from '@godwit/linux';
import { type ByteStream, connectTo, type Listener, listenOn, type Transport, tcp } from '@godwit/transport';
import { FrameFinder, faulty } from '@godwit/transport/testing';
import { SOURCE_TIMEOUTS, TIMEOUTS } from './run-case.js';

const MIB = 2 ** 20;
const HOST = '127.0.0.1';

/** Bytes of one connection, from source to destination. */
interface Crossing {
  /** Bytes that the source has written. */
  handed: number;
  /** Bytes of those that passed the fault and were sent. */
  sent: number;
  /** Bytes of complete frames that the destination has read. */
  whole: number;
}

interface Run {
  readonly wireBytes: number;
  readonly crossings: readonly Crossing[];
  readonly connections: number;
  readonly verified: boolean;
  readonly ms: number;
}

/**
 * Migrates `byteLength` bytes of RAM twice: without a cut, and with a link that is cut `cuts` times. The second migration may send
 * more bytes than the first, but fewer than were in flight at the cuts: written to the stream, and not read at the destination as
 * part of a complete frame.
 */
export async function cutTenTimes(byteLength: number, cuts = 10) {
  const memory = filled(byteLength);
  try {
    const uncut = await run(memory, []);
    const every = Math.floor(byteLength / (cuts + 1));
    const cut = await run(
      memory,
      Array.from({ length: cuts }, (_, stream) => ({ stream, byte: every })),
    );
    const inFlight = cut.crossings.slice(0, cuts).reduce((sum, { handed, whole }) => sum + handed - whole, 0);
    const excess = cut.wireBytes - uncut.wireBytes;
    const problems: string[] = [];
    if (!uncut.verified || !cut.verified) problems.push('the comparison of RAM failed');
    if (cut.connections !== cuts + 1) problems.push(`${cut.connections} connections were made, not ${cuts + 1}`);
    if (!(excess < inFlight))
      problems.push(`${excess} bytes more were sent than uncut, but only ${inFlight} were on their way`);
    const summary =
      `${(byteLength / MIB).toFixed(0)} MiB, link cut ${cuts} times: ${cut.wireBytes} bytes on the wire in ${cut.ms.toFixed(0)} ms, ` +
      `uncut ${uncut.wireBytes} in ${uncut.ms.toFixed(0)} ms: ${(excess / MIB).toFixed(2)} MiB more; ` +
      `${(inFlight / MIB).toFixed(2)} MiB were in flight at the cuts`;
    return { summary, problems };
  } finally {
    memory.close();
  }
}

async function run(memory: MappedGuestMemory, cuts: readonly { stream: number; byte: number }[]): Promise<Run> {
  const crossings: Crossing[] = [];
  const at = (index: number): Crossing => {
    crossings[index] ??= { handed: 0, sent: 0, whole: 0 };
    return crossings[index];
  };
  const arrived = createGuestMemory({ blocks: [blockOf(memory.blocks[0]?.byteLength as number)] });
  const links = await listenOn<Listener>(watched(tcp({ host: HOST, port: 0 }), at));
  try {
    const start = performance.now();
    const { port } = new URL(links.address);
    const carrier = counted(tcp({ host: HOST, port: Number(port) }), (index, bytes) => {
      at(index).sent += bytes;
    });
    const faults = cuts.map(({ stream, byte }) => ({ kind: 'cut', direction: 'out', at: { byte }, stream }) as const);
    const transport = counted(faulty(carrier, { faults }), (index, bytes) => {
      at(index).handed += bytes;
    });
    const incoming = receive(links, { ...TIMEOUTS, prepare: () => still(arrived) });
    const source = still(memory);
    const migration = migrate(source, connectTo(transport), { ...SOURCE_TIMEOUTS, verify: true });
    const [{ verified }] = await Promise.all([migration.result, incoming.result]);
    reclaim(source, { because: 'no guest runs at either side, and the next run is of the same memory' });
    return {
      verified,
      crossings,
      connections: crossings.length,
      wireBytes: crossings.reduce((sum, { sent }) => sum + sent, 0),
      ms: performance.now() - start,
    };
  } finally {
    await links.close();
    arrived.close();
  }
}

/** Wraps a transport. Calls `count` with the bytes written to each stream; streams are numbered in the order of connecting. */
function counted(transport: Transport, count: (index: number, bytes: number) => void): Transport {
  let connected = 0;
  return {
    listen: (signal) => transport.listen(signal),
    async connect(signal) {
      const stream = await transport.connect(signal);
      const index = connected++;
      return {
        ...pass(stream),
        write(chunks) {
          for (const chunk of chunks) count(index, chunk.length);
          return stream.write(chunks);
        },
      };
    },
  };
}

/** Wraps a transport and records, for each accepted stream, the bytes of complete frames. */
function watched(transport: Transport, at: (index: number) => Crossing): Transport {
  let accepted = 0;
  return {
    connect: (signal) => transport.connect(signal),
    async listen(signal) {
      const listener = await transport.listen(signal);
      return {
        address: listener.address,
        close: () => listener.close(),
        async accept(acceptSignal) {
          const stream = await listener.accept(acceptSignal);
          const crossing = at(accepted++);
          const finder = new FrameFinder();
          return {
            ...pass(stream),
            async read(into, wanted) {
              const count = await stream.read(into, wanted);
              // When a frame starts, all frames before it are complete.
              const starts = finder.feed(into.subarray(0, count));
              if (starts.length > 0) crossing.whole = starts[starts.length - 1] as number;
              return count;
            },
          };
        },
      };
    },
  };
}

function pass(stream: ByteStream): ByteStream {
  return {
    peer: stream.peer,
    write: (chunks) => stream.write(chunks),
    read: (into, wanted) => stream.read(into, wanted),
    close: () => stream.close(),
    abort: (reason) => stream.abort(reason),
  };
}

function blockOf(byteLength: number) {
  return { id: 'ram', guestPhysicalAddress: 0, byteLength };
}

/** RAM in which no page is zero and no two are equal: every page must be sent. */
function filled(byteLength: number): MappedGuestMemory {
  const memory = createGuestMemory({ blocks: [blockOf(byteLength)] });
  const [block] = memory.blocks;
  for (let offset = 0; block !== undefined && offset < byteLength; offset += 16 * MIB) {
    randomFillSync(block.view(offset, Math.min(16 * MIB, byteLength - offset)));
  }
  return memory;
}

/** A guest that writes nothing, so that a page is sent twice only because of a cut. */
function still(memory: MappedGuestMemory): MigratableVm {
  return {
    memory,
    trackers: [new SoftwareTracker(memory)],
    devices: [],
    pause: async () => {},
    resume: async () => {},
  };
}
