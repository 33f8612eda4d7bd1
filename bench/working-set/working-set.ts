import { writeFileSync } from 'node:fs';
import { hostSupport } from '@godwit/linux';
import type { Report } from '../report.js';
import { workingSetPicture } from './picture.js';
import { type Watched, watchGuest } from './watch-guest.js';

export interface WorkingSetOptions {
  /** RAM of the guest, MiB. */
  readonly size: number;
  /** Milliseconds. */
  readonly interval: number;
  readonly intervals: number;
  /** Where the picture goes. */
  readonly output: string;
}

/** Parts that guest memory is divided into in the picture. */
const CELLS = 128;

/**
 * Draws the working set of a live KVM guest: what it reads, and what it writes. Where the kernel has no read-write protection (Linux 7.3) it
 * says so, and draws nothing.
 */
export async function workingSetBenchmark({ size, interval, intervals, output }: WorkingSetOptions): Promise<Report> {
  for (const support of [hostSupport().kvm, hostSupport().accessProtect]) {
    if (support.usable) continue;
    process.exitCode = 1;
    return { benchmark: `working-set: it cannot run here: ${support.reason}`, rows: [], notes: [] };
  }
  const config = {
    memoryBytes: size * 2 ** 20,
    vcpus: 1,
    // A quarter of the memory, from one end to the other and again.
    workload: { workingSetBytes: size * 2 ** 18, order: 'sequential', pagesPerSecond: size * 64 } as const,
  };
  const watched = await watchGuest(config, { intervalMs: interval, intervals, cells: CELLS });
  writeFileSync(output, workingSetPicture(watched, `Pages that a guest of ${size} MiB reads and writes`));
  return { ...reportOf(watched), notes: [`the picture is ${output}`] };
}

function reportOf({ heat, sampleMs, intervals, pages }: Watched): Omit<Report, 'notes'> {
  const [never = 0] = heat;
  const always = heat.at(-1) ?? 0;
  return {
    benchmark: `working-set: ${pages} pages, watched in ${intervals.length} intervals`,
    rows: [
      { name: 'read or written in every interval', value: always, unit: 'pages' },
      { name: 'read or written in some of them', value: pages - never - always, unit: 'pages' },
      { name: 'never', value: never, unit: 'pages' },
      { name: 'a sample of accesses', value: sampleMs, unit: 'ms' },
    ],
  };
}
