import { randomFillSync } from 'node:crypto';
import { type MigratableVm, migrate, receive, reclaim, SoftwareTracker } from '@godwit/core';
import { createGuestMemory, type MappedGuestMemory } from '@godwit/linux';
import { type ByteStream, connectTo, type Listener, listenOn, type Transport, tcp } from '@godwit/transport';
import { FrameFinder, faulty } from '@godwit/transport/testing';
import { TIMEOUTS } from './run-case.js';

const MIB = 2 ** 20;
const HOST = '127.0.0.1';

/** Bytes of one connection, from source to destination. */
interface Crossing {
  /** Bytes that the source wanted to send. */
  handed: number;
  /** Those of them that left. */
  sent: number;
  /** Bytes of frames that have wholly been read at the destination. */
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
 * One migration of `byteLength` bytes of RAM uncut, and one whose link is cut `cuts` times. What the second sends more than
 * the first must be less than what was on its way when it was cut: handed to the stream, and not yet a whole frame at the
 * destination.
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
    const migration = migrate(source, connectTo(transport), { ...TIMEOUTS, verify: true });
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

/** The same transport; `count` hears of the bytes that are written to each stream, in the order of connecting. */
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

/** The same transport; of each stream that is accepted, it is known how far whole frames reach. */
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
              // Where a frame starts, all those before it are whole.
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

/** RAM whose pages are all different: none is zero, none can be left out. */
function filled(byteLength: number): MappedGuestMemory {
  const memory = createGuestMemory({ blocks: [blockOf(byteLength)] });
  const [block] = memory.blocks;
  for (let offset = 0; block !== undefined && offset < byteLength; offset += 16 * MIB) {
    randomFillSync(block.view(offset, Math.min(16 * MIB, byteLength - offset)));
  }
  return memory;
}

/** A guest that does nothing: what is sent twice is then sent twice because of a cut. */
function still(memory: MappedGuestMemory): MigratableVm {
  return {
    memory,
    trackers: [new SoftwareTracker(memory)],
    devices: [],
    pause: async () => {},
    resume: async () => {},
  };
}
