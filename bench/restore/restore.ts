import { rmSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type FaultStatus, migrate, receive } from '@godwit/core';
import { hasKvm, Machine } from '@godwit/example-node-vmm';
import { connectTo, file, listenOn } from '@godwit/transport';
import { type FaultThreads, faultThreads } from '@godwit/workers';
import { cacheFolder } from '../qemu/cache-folder.js';
import { forget } from '../qemu/memory/page-cache.js';
import { median, printReport, type Row } from '../report.js';

const MIB = 2 ** 20;
/** The longest time from the call of `receive` to the running guest, in a VM that was built before. Milliseconds. */
const TARGET_MS = 20;
const CANNOT_RUN_HERE = 3;

export interface RestoreOptions {
  readonly runs: number;
  /** Memory of the large guest. MiB. */
  readonly size: number;
  readonly json: boolean;
}

interface Snapshot {
  readonly name: string;
  readonly memoryBytes: number;
  /** The bytes of the guest's memory that are filled. */
  readonly filledBytes: number;
}

interface Restored {
  /** Milliseconds from the call of `receive` until the guest ran, and until all of its memory was loaded; then those of building the VM. */
  readonly runningMs: number;
  readonly wholeMs: number;
  readonly builtMs: number;
  readonly faults: FaultStatus;
}

/**
 * `npm run bench -- restore`: restores snapshots of a KVM guest that runs at once, a small one and a large one, sparse and full, from a
 * disk and without any of it in the page cache.
 */
export async function restoreBenchmark({ runs, size, json }: RestoreOptions): Promise<void> {
  if (!hasKvm()) {
    process.stderr.write('restore: cannot run here: no access to /dev/kvm\n');
    process.exitCode = CANNOT_RUN_HERE;
    return;
  }
  const large = size * MIB;
  const snapshots: readonly Snapshot[] = [
    { name: '64 MiB', memoryBytes: 64 * MIB, filledBytes: 48 * MIB },
    { name: `${size} MiB, sparse by nine tenths`, memoryBytes: large, filledBytes: large / 10 },
    { name: `${size} MiB, full`, memoryBytes: large, filledBytes: large - 128 * MIB },
  ];
  const folder = await mkdtemp(join(cacheFolder('restore'), 'disk-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  const threads = faultThreads();
  const rows: Row[] = [];
  try {
    for (const snapshot of snapshots) {
      const path = join(folder, 'snapshot');
      await save(snapshot, path);
      const all: Restored[] = [];
      for (let run = 0; run < runs; run++) all.push(await restore(snapshot, path, threads));
      rows.push(...rowsOf(snapshot, all));
      rmSync(path);
    }
  } finally {
    await threads.close();
    rmSync(folder, { recursive: true, force: true });
  }
  const notes = [
    'the VM stands before the call, and the process has restored before (but for the first row of each)',
    'the rest is loaded beside the running guest, which writes 5,000 pages a second',
  ];
  printReport({ benchmark: `restore: a guest that runs at once, median of ${runs}`, rows, notes }, json);
}

function rowsOf({ name, filledBytes }: Snapshot, all: readonly Restored[]): Row[] {
  const later = all.length > 1 ? all.slice(1) : all;
  const of = (pick: (one: Restored) => number): number => median(later.map(pick));
  return [
    { name: `${name}: the guest runs, first time`, value: (all[0] as Restored).runningMs, unit: 'ms' },
    { name: `${name}: the guest runs`, value: of(({ runningMs }) => runningMs), unit: 'ms', atMost: TARGET_MS },
    { name: `${name}: all memory is there`, value: of(({ wholeMs }) => wholeMs), unit: 'ms' },
    {
      name: `${name}: loaded beside the guest`,
      value: of(({ wholeMs, runningMs }) => filledBytes / MIB / ((wholeMs - runningMs) / 1000)),
      unit: 'MiB/s',
    },
    { name: `${name}: faults that the guest waited for`, value: of(({ faults }) => faults.faults), unit: '' },
    { name: `${name}: to build the VM`, value: of(({ builtMs }) => builtMs), unit: 'ms' },
  ];
}

async function save({ memoryBytes, filledBytes }: Snapshot, path: string): Promise<void> {
  const workload = { workingSetBytes: 16 * MIB, pagesPerSecond: 5000, order: 'random' } as const;
  const source = await Machine.create({ memoryBytes, vcpus: 2, overcommit: true, workload });
  try {
    let left = Math.ceil(filledBytes / MIB);
    for (const block of [...source.memory.blocks].reverse()) {
      // The guest itself is in the first 32 MiB.
      for (let at = block.byteLength - MIB; at >= 32 * MIB && left > 0; at -= MIB, left--)
        block.view(at, MIB).fill(1 + (left & 127));
    }
    await source.resume();
    await sleep(500);
    await migrate(source, connectTo(file({ path })), { description: source.description }).result;
  } finally {
    await source.close();
  }
}

async function restore({ memoryBytes }: Snapshot, path: string, threads: FaultThreads): Promise<Restored> {
  await threads.ready();
  const start = performance.now();
  const machine = await Machine.fromDescription({ kind: 'kvm', memoryBytes, vcpus: 2 }, { overcommit: true });
  await machine.prepared();
  const builtMs = performance.now() - start;
  await forget(path);
  const links = await listenOn(file({ path }));
  try {
    const called = performance.now();
    const incoming = receive(links, { prepare: () => machine, run: 'at once', faults: threads });
    const running = new Promise<number>((resolve) => {
      incoming.subscribe({
        next: ({ type }) => {
          if (type === 'running') resolve(performance.now() - called);
        },
        error: () => {},
      });
    });
    const { summary } = await incoming.result;
    const wholeMs = performance.now() - called;
    if (summary.faults === undefined) throw new Error('no fault was served: the guest did not run at once');
    return { runningMs: await running, wholeMs, builtMs, faults: summary.faults };
  } finally {
    await links.close();
    await machine.close();
  }
}
