const MIB = 2 ** 20;

/** A live migration whose downtime is predicted. */
export interface PredictionCase {
  readonly name: string;
  readonly vcpus: number;
  readonly workingSetBytes: number;
  /** Page writes per second of all vCPUs together; 0: as fast as possible. */
  readonly pagesPerSecond: number;
  readonly order: 'sequential' | 'random';
  readonly wholePages: boolean;
  /** Bytes per second for pre-copy; 0: no limit. */
  readonly bandwidthLimit: number;
  readonly encodings: readonly ('delta' | 'lz4')[];
  /** Page channels on worker threads; 0: pages go over the control stream. */
  readonly channels: number;
  /** A device beside the machine's own: its bytes of state, 0 for none, and how long loading them takes at the destination. */
  readonly deviceBytes: number;
  readonly loadMs: number;
  readonly downtimeLimitMs: number;
}

const USUAL: PredictionCase = {
  name: '',
  vcpus: 2,
  workingSetBytes: 64 * MIB,
  pagesPerSecond: 10_000,
  order: 'sequential',
  wholePages: false,
  bandwidthLimit: 0,
  encodings: [],
  channels: 0,
  deviceBytes: 0,
  loadMs: 0,
  downtimeLimitMs: 300,
};

type Change = Partial<Omit<PredictionCase, 'name'>>;

/** Changes of one setting of the usual guest, and of pairs of settings that occur together in practice. */
const CHANGES: readonly (readonly [name: string, change: Change])[] = [
  ['usual', {}],
  ['idle', { workingSetBytes: 0 }],
  ['working set 4 MiB', { workingSetBytes: 4 * MIB }],
  ['working set 16 MiB', { workingSetBytes: 16 * MIB }],
  ['working set 128 MiB', { workingSetBytes: 128 * MIB }],
  ['working set 256 MiB', { workingSetBytes: 256 * MIB, pagesPerSecond: 20_000 }],
  ['1,000 pages/s', { pagesPerSecond: 1000 }],
  ['3,000 pages/s', { pagesPerSecond: 3000 }],
  ['30,000 pages/s', { pagesPerSecond: 30_000 }],
  ['60,000 pages/s', { pagesPerSecond: 60_000 }],
  ['flat out, 16 MiB', { pagesPerSecond: 0, workingSetBytes: 16 * MIB }],
  ['flat out, 64 MiB', { pagesPerSecond: 0 }],
  ['random', { order: 'random' }],
  ['random, 30,000 pages/s', { order: 'random', pagesPerSecond: 30_000 }],
  ['random, 128 MiB', { order: 'random', workingSetBytes: 128 * MIB }],
  ['whole pages', { wholePages: true }],
  ['whole pages, 30,000 pages/s', { wholePages: true, pagesPerSecond: 30_000 }],
  ['32 MiB/s', { bandwidthLimit: 32 * MIB, pagesPerSecond: 2000 }],
  ['64 MiB/s', { bandwidthLimit: 64 * MIB, pagesPerSecond: 5000 }],
  ['128 MiB/s', { bandwidthLimit: 128 * MIB }],
  ['128 MiB/s, random', { bandwidthLimit: 128 * MIB, order: 'random' }],
  ['128 MiB/s, 20,000 pages/s', { bandwidthLimit: 128 * MIB, pagesPerSecond: 20_000 }],
  ['256 MiB/s', { bandwidthLimit: 256 * MIB, pagesPerSecond: 20_000 }],
  ['256 MiB/s, 128 MiB', { bandwidthLimit: 256 * MIB, workingSetBytes: 128 * MIB }],
  ['delta', { encodings: ['delta'] }],
  ['delta, 128 MiB/s', { encodings: ['delta'], bandwidthLimit: 128 * MIB }],
  ['lz4, 128 MiB/s', { encodings: ['lz4'], bandwidthLimit: 128 * MIB }],
  ['delta and lz4, 64 MiB/s', { encodings: ['delta', 'lz4'], bandwidthLimit: 64 * MIB }],
  ['delta and lz4, random', { encodings: ['delta', 'lz4'], bandwidthLimit: 128 * MIB, order: 'random' }],
  ['device 1 MiB', { deviceBytes: MIB }],
  ['device 16 MiB', { deviceBytes: 16 * MIB }],
  ['device 64 MiB', { deviceBytes: 64 * MIB }],
  ['device 16 MiB, 128 MiB/s', { deviceBytes: 16 * MIB, bandwidthLimit: 128 * MIB }],
  ['loads in 20 ms', { deviceBytes: MIB, loadMs: 20 }],
  ['loads in 100 ms', { deviceBytes: MIB, loadMs: 100 }],
  ['loads in 100 ms, 16 MiB', { deviceBytes: 16 * MIB, loadMs: 100, bandwidthLimit: 128 * MIB }],
  ['1 vCPU', { vcpus: 1 }],
  ['1 vCPU, 128 MiB/s', { vcpus: 1, bandwidthLimit: 128 * MIB }],
  ['4 vCPUs', { vcpus: 4 }],
  ['4 vCPUs, random, 128 MiB/s', { vcpus: 4, order: 'random', bandwidthLimit: 128 * MIB }],
  ['8 vCPUs', { vcpus: 8 }],
  ['8 vCPUs, flat out, 16 MiB', { vcpus: 8, pagesPerSecond: 0, workingSetBytes: 16 * MIB }],
  ['2 channels', { channels: 2 }],
  ['4 channels', { channels: 4, pagesPerSecond: 20_000 }],
  ['2 channels, 128 MiB/s', { channels: 2, bandwidthLimit: 128 * MIB }],
  ['2 channels, delta', { channels: 2, encodings: ['delta'], bandwidthLimit: 128 * MIB }],
  ['limit 50 ms', { downtimeLimitMs: 50, pagesPerSecond: 3000 }],
  ['limit 1 s', { downtimeLimitMs: 1000, pagesPerSecond: 30_000, workingSetBytes: 128 * MIB }],
];

export const CASES: readonly PredictionCase[] = CHANGES.map(([name, change]) => ({ ...USUAL, ...change, name }));

/** Twelve of the cases, with changes of all settings. */
export const SHORT_CASES: readonly PredictionCase[] = CASES.filter((_, index) => index % 4 === 0);
