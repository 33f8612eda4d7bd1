import { writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { DirtyBitmaps, type DirtyTracker } from '@godwit/core';
import { hasKvm, Machine } from '@godwit/example-node-vmm';
import { AccessTracker, hostSupport } from '@godwit/linux';
import { rearm } from '../rearm.js';
import { median, printReport, type Row } from '../report.js';
import { Heat } from './heat.js';
import { heatPicture } from './heat-picture.js';

const MIB = 2 ** 20;
const PAGE_BYTES = 4096;
/** Parts of memory that the picture shows side by side. */
const COLUMNS = 256;
const VCPUS = 2;
const CANNOT_RUN_HERE = 3;

export interface WorkingSetOptions {
  readonly samples: number;
  /** Milliseconds between two samples. */
  readonly interval: number;
  /** Memory of the guest. MiB. */
  readonly size: number;
  /** Memory that it writes. MiB. */
  readonly writes: number;
  /** Pages that it writes a second. */
  readonly rate: number;
  /** The file for the picture. */
  readonly out: string;
  readonly json: boolean;
}

/**
 * `npm run bench -- working-set`: which pages a live KVM guest reads and writes, sample by sample, and a picture of it. Reads and writes
 * come from `AccessTracker`, writes alone from KVM's dirty log.
 */
export async function workingSetBenchmark(options: WorkingSetOptions): Promise<void> {
  const { accessProtect } = hostSupport();
  const obstacle = !accessProtect.usable ? accessProtect.reason : hasKvm() ? undefined : 'no access to /dev/kvm';
  if (obstacle !== undefined) {
    process.stderr.write(`working-set: cannot run here: ${obstacle}\n`);
    process.exitCode = CANNOT_RUN_HERE;
    return;
  }
  const { size, writes, rate, interval, samples, out } = options;
  const machine = await Machine.create({
    memoryBytes: size * MIB,
    vcpus: VCPUS,
    // In anonymous memory the host may use huge pages, which are seen as a whole.
    memoryFiles: true,
    workload: { workingSetBytes: writes * MIB, pagesPerSecond: rate, order: 'random' },
  });
  try {
    await machine.prepared();
    await machine.resume();
    const { heat, sampleMs } = await watched(machine, samples, interval);
    const title = `A guest of ${size} MiB that writes ${writes} MiB at random, ${rate} pages a second`;
    writeFileSync(out, heatPicture({ title, samples: heat.samples, intervalMs: interval, memoryBytes: size * MIB }));
    const notes = [`the picture is in ${out}`];
    printReport(
      { benchmark: `working-set: ${samples} samples, one each ${interval} ms`, rows: rowsOf(heat, sampleMs), notes },
      options.json,
    );
  } finally {
    await machine.close();
  }
}

async function watched(
  machine: Machine,
  samples: number,
  interval: number,
): Promise<{ readonly heat: Heat; readonly sampleMs: readonly number[] }> {
  const { memory, trackers } = machine;
  const accesses = AccessTracker.forMemory(memory);
  const heat = new Heat(
    memory.blocks.reduce((sum, { byteLength }) => sum + byteLength / PAGE_BYTES, 0),
    COLUMNS,
  );
  const sampleMs: number[] = [];
  try {
    for (const tracker of trackers) await tracker.start();
    await accesses.start();
    // Pages that were noted before both trackers ran are in no sample.
    await writesOf(machine, new DirtyBitmaps(memory));
    await accesses.sample(new DirtyBitmaps(memory));
    for (let i = 0; i < samples; i++) {
      await sleep(interval);
      const [used, written] = [new DirtyBitmaps(memory), new DirtyBitmaps(memory)];
      // Both are of the same moment, so that a page that was written is not only read.
      await machine.pause();
      const from = performance.now();
      await accesses.sample(used);
      sampleMs.push(performance.now() - from);
      await writesOf(machine, written);
      await machine.resume();
      heat.add(used, written);
    }
    return { heat, sampleMs };
  } finally {
    await accesses.stop();
    for (const tracker of trackers) await tracker.stop();
  }
}

/** ORs in what KVM and the VMM have written, and re-arms it. */
async function writesOf({ trackers }: Machine, into: DirtyBitmaps): Promise<void> {
  for (const tracker of trackers as readonly DirtyTracker[]) {
    await tracker.harvest(into);
    rearm(tracker, into);
  }
}

function rowsOf(heat: Heat, sampleMs: readonly number[]): Row[] {
  const { samples } = heat;
  const of = (pick: (sample: Heat['samples'][number]) => number): number => median(samples.map(pick));
  return [
    { name: 'used in a sample', value: of(({ usedPages }) => usedPages), unit: 'pages' },
    { name: 'written in a sample', value: of(({ writtenPages }) => writtenPages), unit: 'pages' },
    { name: 'used in any sample: the working set', value: heat.pagesUsedIn(1), unit: 'pages' },
    { name: 'used in every sample: the hottest', value: heat.pagesUsedIn(samples.length), unit: 'pages' },
    { name: 'hottest pages with nine tenths of all uses', value: heat.hottestWith(0.9), unit: 'pages' },
    { name: 'one sample takes', value: median(sampleMs), unit: 'ms' },
  ];
}
