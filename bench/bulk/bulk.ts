import { median, type Report, type Row } from '../report.js';
import type { Figures, MemoryKind, PagePath } from './peer.js';
import { type ObservedMigration, Peers } from './peers.js';

interface Pair {
  readonly rawMs: number;
  readonly figures: Figures;
}

/** Number of migrations of each kind that are observed, and not timed. */
const OBSERVED = 3;

/** Pages are sent on the control stream, as by default. */
const PATH: PagePath = { over: 'tcp', channels: 0, workers: false };

/**
 * Sends 2 GiB (by default) of random RAM from one process to another over loopback TCP, alternately with a raw `send`/`recv` loop and
 * with Godwit, into memory of the same kind:
 *
 * - `ready`: every page is populated already; this compares the two loops and is the main figure;
 * - `fresh`: the destination's memory is all holes, as for a new guest. This mostly measures page faults, in a virtual machine those of
 *   its host too: memory that was freed more than two seconds ago may have been given back (free page reporting), and a run then takes
 *   twice as long as the one before it, with either loop.
 */
export async function bulkBenchmark(options: { readonly byteLength: number; readonly runs: number }): Promise<Report> {
  const { byteLength, runs } = options;
  const peers = await Peers.start(byteLength);
  try {
    const buffer = await peers.raw('reused buffer');
    const rows: Row[] = [];
    let cold: Pair | undefined;
    for (const kind of ['ready', 'fresh'] as const) {
      const pairs: Pair[] = [];
      // The very first migration of the two processes includes JIT compilation; it has its own row.
      if (kind === 'ready') cold = await pair(peers, kind, true);
      for (let run = 0; run < runs; run++) pairs.push(await pair(peers, kind, run % 2 === 0));
      const observed: ObservedMigration[] = [];
      while (observed.length < OBSERVED) observed.push(await peers.observe(kind, PATH));
      rows.push(...describe(kind, byteLength, pairs, observed));
    }
    if (cold !== undefined) {
      rows.push(row('ready: Godwit / raw, the very first migration of a process', cold.rawMs / cold.figures.ramMs, ''));
    }
    rows.push(row('raw loop into one small buffer, over and over', speed(byteLength, buffer), 'MiB/s'));
    return {
      benchmark: `bulk: ${byteLength / 2 ** 20} MiB of random RAM over loopback TCP, median of ${runs}`,
      rows,
      notes: [
        '"ready": the destination\'s pages have memory already, so this compares the two loops',
        '"fresh": they are holes: mostly page faults; in a virtual machine a run may take twice as long as the one before it',
      ],
    };
  } finally {
    peers.stop();
  }
}

/** Measures one raw loop and one migration. They alternate in being first, since memory that was just freed is cheaper to allocate. */
async function pair(peers: Peers, kind: MemoryKind, rawFirst: boolean): Promise<Pair> {
  if (rawFirst) {
    const rawMs = await peers.raw(kind);
    return { rawMs, figures: await peers.migrate(kind, PATH) };
  }
  const figures = await peers.migrate(kind, PATH);
  return { rawMs: await peers.raw(kind), figures };
}

function describe(
  kind: MemoryKind,
  byteLength: number,
  pairs: readonly Pair[],
  observed: readonly ObservedMigration[],
): Row[] {
  const of = (pick: (pair: Pair) => number) => median(pairs.map(pick));
  const seen = (pick: (one: ObservedMigration) => number) => median(observed.map(pick));
  return [
    row(
      `${kind}: raw send/recv loop`,
      speed(
        byteLength,
        of((pair) => pair.rawMs),
      ),
      'MiB/s',
    ),
    row(
      `${kind}: Godwit`,
      speed(
        byteLength,
        of((pair) => pair.figures.ramMs),
      ),
      'MiB/s',
    ),
    {
      ...row(
        `${kind}: Godwit / raw`,
        of((pair) => pair.rawMs / pair.figures.ramMs),
        '',
      ),
      atLeast: 0.8,
    },
    {
      ...row(
        `${kind}: source event-loop delay p99`,
        seen((one) => one.eventLoopDelayP99Ms),
        'ms',
      ),
      atMost: 10,
    },
    {
      ...row(`${kind}: source memory beside the guest's`, seen((one) => one.extraResidentBytes) / 2 ** 20, 'MiB'),
      atMost: 64,
    },
    {
      ...row(
        `${kind}: destination memory beside the guest's`,
        seen((one) => one.destinationExtraBytes) / 2 ** 20,
        'MiB',
      ),
      atMost: 64,
    },
  ];
}

function row(name: string, value: number, unit: string): Row {
  return { name, value, unit };
}

function speed(byteLength: number, ms: number): number {
  return byteLength / 2 ** 20 / (ms / 1000);
}
