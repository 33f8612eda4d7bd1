import { testCertificate } from '@godwit/transport/testing';
import type { PagePath } from '../bulk/peer.js';
import { type ObservedMigration, Peers } from '../bulk/peers.js';
import { median, type Report, type Row } from '../report.js';

/** A path of the pages, and the reference that it is compared with. */
interface Way {
  readonly name: string;
  readonly path: PagePath;
  /** The reference: the raw loop over sockets, or Node's own TLS. */
  readonly against: 'raw' | 'raw TLS';
  readonly atLeast?: number;
}

interface Measured {
  readonly way: Way;
  readonly referenceMs: number;
  readonly ramMs: number;
}

interface ObservedOn extends ObservedMigration {
  readonly way: Way;
}

/** Number of migrations on each path that are observed, and not timed. */
const OBSERVED = 3;

/**
 * Sends random RAM from one process to another on page channels, and compares with a raw `send`/`recv` loop of the same bytes: on worker
 * threads over TCP and UNIX sockets, on the main thread, and over TLS (compared with Node's own). In every run each path is measured
 * once, right after its reference; the ratios are of these pairs. The event loop and the memory are observed in separate migrations. The
 * destination's pages are populated already (`ready`), so that the figures compare the loops and not the kernel's page faults.
 */
export async function channelsBenchmark(options: {
  readonly byteLength: number;
  readonly runs: number;
}): Promise<Report> {
  const { byteLength, runs } = options;
  const ways = waysOf();
  const measured: Measured[] = [];
  const observed: ObservedOn[] = [];
  const peers = await Peers.start(byteLength);
  try {
    // The very first migration is warm-up for the JIT compiler.
    for (const { path } of ways.slice(0, 1)) await peers.migrate('ready', path);
    for (let run = 0; run < runs; run++) {
      for (const way of ways) measured.push(await turn(peers, way));
    }
    for (let i = 0; i < OBSERVED; i++) {
      for (const way of ways) observed.push({ way, ...(await peers.observe('ready', way.path)) });
    }
  } finally {
    peers.stop();
  }
  const [first] = ways as [Way];
  const small = await residentOf(byteLength / 4, first.path);
  return {
    benchmark: `channels: ${byteLength / 2 ** 20} MiB of random RAM on the same host, median of ${runs}`,
    rows: [
      ...ways.flatMap((way) =>
        describe(
          way,
          byteLength,
          measured.filter((one) => one.way === way),
          observed.filter((one) => one.way === way),
        ),
      ),
      mib(`${first.name}: source memory beside the guest's, for a quarter of the guest`, small),
    ],
    notes: [
      'ratios are to a raw send/recv loop (one TCP connection, two threads), for TLS to tls.connect and write of Node',
      'event-loop delay is that of the source, whose threads, and those of the destination, share the cores of this machine',
    ],
  };
}

function waysOf(): readonly Way[] {
  const authority = testCertificate('authority');
  const server = testCertificate('destination', { signer: authority, hosts: ['127.0.0.1'] });
  const pems = { authority: authority.cert, cert: server.cert, key: server.key };
  const on = (over: 'tcp' | 'unix', channels: number, workers: boolean): PagePath => ({ over, channels, workers });
  return [
    { name: 'TCP, 1 channel on a worker', path: on('tcp', 1, true), against: 'raw', atLeast: 0.9 },
    { name: 'TCP, 2 channels on workers', path: on('tcp', 2, true), against: 'raw', atLeast: 0.9 },
    { name: 'UNIX, 1 channel on a worker', path: on('unix', 1, true), against: 'raw' },
    { name: 'TCP, 1 channel on the main thread', path: on('tcp', 1, false), against: 'raw' },
    { name: 'TLS', path: { over: 'tls', channels: 0, workers: false, pems }, against: 'raw TLS', atLeast: 0.8 },
  ];
}

async function turn(peers: Peers, way: Way): Promise<Measured> {
  const { path } = way;
  const socket = path.over === 'tls' ? { over: path.over, pems: path.pems } : { over: 'tcp' as const };
  const referenceMs = await peers.raw('ready', socket);
  const { ramMs } = await peers.migrate('ready', path);
  return { way, referenceMs, ramMs };
}

async function residentOf(byteLength: number, path: PagePath): Promise<number> {
  const peers = await Peers.start(byteLength);
  try {
    return (await peers.observe('ready', path)).extraResidentBytes;
  } finally {
    peers.stop();
  }
}

function describe(
  way: Way,
  byteLength: number,
  runs: readonly Measured[],
  observed: readonly ObservedMigration[],
): Row[] {
  const { name, against, atLeast } = way;
  const of = (pick: (one: Measured) => number) => median(runs.map(pick));
  const speed = (ms: number) => byteLength / 2 ** 20 / (ms / 1000);
  const seen = (pick: (one: ObservedMigration) => number) => median(observed.map(pick));
  const delay = seen((one) => one.eventLoopDelayP99Ms);
  return [
    { name, value: speed(of((one) => one.ramMs)), unit: 'MiB/s' },
    {
      name: `${name} / ${against} (${Math.round(speed(of((one) => one.referenceMs)))} MiB/s)`,
      value: of((one) => one.referenceMs / one.ramMs),
      unit: '',
      ...(atLeast === undefined ? {} : { atLeast }),
    },
    { name: `${name}: event-loop delay p99`, value: delay, unit: 'ms', ...(way.path.workers ? { atMost: 5 } : {}) },
    mib(
      `${name}: source memory beside the guest's`,
      seen((one) => one.extraResidentBytes),
    ),
    mib(
      `${name}: destination memory beside the guest's`,
      seen((one) => one.destinationExtraBytes),
    ),
  ];
}

function mib(name: string, bytes: number): Row {
  return { name, value: bytes / 2 ** 20, unit: 'MiB', atMost: 64 };
}
