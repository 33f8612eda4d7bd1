import { Peers } from '../bulk/peers.js';
import { median, type Report, type Row } from '../report.js';

const CHANNELS = [1, 2] as const;
const WAYS = [
  { name: 'send', spliced: false },
  { name: 'vmsplice and splice', spliced: true },
] as const;

interface Measured {
  readonly channels: number;
  readonly spliced: boolean;
  readonly ms: number;
}

/**
 * Sends random anonymous memory from one process to another over loopback TCP, into fresh anonymous memory, by raw loops: by `send`, which
 * copies it into the kernel, and by `vmsplice` into a pipe and `splice` into the socket, which do not. Each connection has a process at
 * either end, as each page channel has a thread. The ratio is of pairs.
 */
export async function zeroCopyBenchmark(options: {
  readonly byteLength: number;
  readonly runs: number;
}): Promise<Report> {
  const measured: Measured[] = [];
  for (const channels of CHANNELS) {
    const all = await Promise.all(
      Array.from({ length: channels }, () => Peers.start(options.byteLength / channels, 'auto')),
    );
    try {
      // The first pair is warm-up for the host, which has to find memory.
      for (let run = -1; run < options.runs; run++) {
        for (const { spliced } of WAYS) {
          const each = await Promise.all(all.map((peers) => peers.raw('huge', { over: 'tcp', spliced })));
          if (run >= 0) measured.push({ channels, spliced, ms: Math.max(...each) });
        }
      }
    } finally {
      for (const peers of all) peers.stop();
    }
  }
  return {
    benchmark: `zero-copy: ${options.byteLength / 2 ** 20} MiB of random anonymous memory into fresh memory, median of ${options.runs}`,
    rows: CHANNELS.flatMap((channels) => rowsOf(channels, measured)),
    notes: [
      'raw loops over loopback, where a copy by the source and one by the destination share the cores of this machine',
    ],
  };
}

function rowsOf(channels: number, measured: readonly Measured[]): Row[] {
  const times = (spliced: boolean): number[] =>
    measured.filter((one) => one.channels === channels && one.spliced === spliced).map(({ ms }) => ms);
  const [sent, spliced] = [times(false), times(true)];
  const connections = `${channels} connection${channels === 1 ? '' : 's'}`;
  return [
    ...WAYS.map(({ name, spliced: by }) => ({ name: `${connections}, ${name}`, value: median(times(by)), unit: 'ms' })),
    {
      name: `${connections}, vmsplice and splice: as fast as send, times`,
      value: median(sent.map((ms, pair) => ms / (spliced[pair] as number))),
      unit: '',
    },
  ];
}
