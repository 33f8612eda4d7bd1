import type { GuestWorkload } from '@godwit/example-node-vmm';

const MIB = 2 ** 20;

/** A guest to estimate and then to migrate, over a link that is limited to `bytesPerSecond`. */
export interface EstimatedGuest {
  readonly name: string;
  readonly memoryBytes: number;
  readonly vcpus: number;
  readonly workload: GuestWorkload;
  readonly bytesPerSecond: number;
}

function guest(
  workingSetMiB: number,
  pagesPerSecond: number,
  linkMiB: number,
  { vcpus = 1, order = 'sequential' }: { readonly vcpus?: number; readonly order?: 'sequential' | 'random' } = {},
): EstimatedGuest {
  const rate = pagesPerSecond === 0 ? 'as fast as it can' : `${pagesPerSecond} pages/s`;
  return {
    name: `${workingSetMiB} MiB, ${rate}, ${order}, ${vcpus} vCPU${vcpus > 1 ? 's' : ''}, link ${linkMiB} MiB/s`,
    memoryBytes: 256 * MIB,
    vcpus,
    workload: { workingSetBytes: workingSetMiB * MIB, pagesPerSecond, order, heartbeatMicroseconds: 20_000 },
    bytesPerSecond: linkMiB * MIB,
  };
}

/**
 * 20 guests of all kinds: idle ones, working sets that fit into the downtime limit and those that do not, dirty rates below, near and
 * above the link's rate, in order and at random. About half of them converge under a plain downtime limit of 300 ms.
 */
export const GUESTS: readonly EstimatedGuest[] = [
  guest(0, 0, 64),
  guest(4, 0, 64),
  guest(16, 0, 128),
  guest(16, 0, 32),
  guest(32, 0, 256),
  guest(32, 0, 32),
  guest(64, 0, 64),
  guest(64, 0, 512, { vcpus: 2 }),
  guest(96, 0, 96),
  guest(96, 2000, 64),
  guest(96, 4000, 32),
  guest(96, 4000, 64, { order: 'random' }),
  guest(96, 12_000, 32, { order: 'random' }),
  guest(64, 16_000, 32),
  guest(64, 1000, 16),
  guest(64, 8000, 16, { vcpus: 2 }),
  guest(128, 3000, 32, { order: 'random' }),
  guest(128, 30_000, 64, { order: 'random', vcpus: 2 }),
  guest(8, 20_000, 32),
  guest(48, 6000, 96, { order: 'random', vcpus: 2 }),
];
