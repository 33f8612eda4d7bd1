import { rmSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DirtyBitmaps, type FaultStatus, migrate, receive } from '@godwit/core';
import { hasKvm, Machine } from '@godwit/example-node-vmm';
import { connectTo, file, listenOn } from '@godwit/transport';
import { type FaultThreads, faultThreads } from '@godwit/workers';
import { cacheFolder } from '../qemu/cache-folder.js';
import { forget } from '../qemu/memory/page-cache.js';
import { rearm } from '../rearm.js';
import { median, printReport, type Row } from '../report.js';

const MIB = 2 ** 20;
/** The longest time from the call of `receive` to the running guest, in a VM that was built before. Milliseconds. */
const TARGET_MS = 20;
/** The bundled guest itself, and what it works on in a small machine, is in so many MiB at the start. */
const GUEST_MIB = 32;
const CANNOT_RUN_HERE = 3;

export interface RestoreOptions {
  readonly runs: number;
  /** Memory of the large guest. MiB. */
  readonly size: number;
  /** Only snapshots that have this in their name. Default: all. */
  readonly only?: string;
  readonly json: boolean;
}

interface Snapshot {
  readonly name: string;
  readonly memoryBytes: number;
  /** The bytes of the guest's memory that are filled. */
  readonly filledBytes: number;
  /** Where: at the end (the default), or at the start, before most of what a guest of more than 3 GiB works on. */
  readonly filled?: 'start';
  /** Whether the snapshot notes what the guest has written in the second before it was saved. */
  readonly workingSet?: boolean;
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
export async function restoreBenchmark({ runs, size, only = '', json }: RestoreOptions): Promise<void> {
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
    { name: `${size} MiB, its start full`, memoryBytes: large, filledBytes: large / 8, filled: 'start' },
    {
      name: `${size} MiB, its start full, its working set first`,
      ...{ memoryBytes: large, filledBytes: large / 8, filled: 'start', workingSet: true },
    },
  ];
  const folder = await mkdtemp(join(cacheFolder('restore'), 'disk-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  const threads = faultThreads();
  const rows: Row[] = [];
  try {
    for (const snapshot of snapshots.filter(({ name }) => name.includes(only))) {
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
    { name: `${name}: time that its vCPUs waited`, value: of(({ faults }) => waitedMs(faults)), unit: 'ms' },
    { name: `${name}: to build the VM`, value: of(({ builtMs }) => builtMs), unit: 'ms' },
  ];
}

/** The time of all vCPUs together. */
function waitedMs({ blocked }: FaultStatus): number {
  return blocked.reduce((sum, { blockedUs }) => sum + blockedUs, 0) / 1000;
}

/** What the guest writes in a second, as KVM's dirty log and the VMM say. */
async function writtenIn(ms: number, { memory, trackers }: Machine): Promise<DirtyBitmaps> {
  for (const tracker of trackers) await tracker.start();
  // At its start the log may have pages that were written before.
  await harvested({ memory, trackers });
  await sleep(ms);
  const written = await harvested({ memory, trackers });
  for (const tracker of trackers) await tracker.stop();
  return written;
}

async function harvested({ memory, trackers }: Pick<Machine, 'memory' | 'trackers'>): Promise<DirtyBitmaps> {
  const dirty = new DirtyBitmaps(memory);
  for (const tracker of trackers) {
    await tracker.harvest(dirty);
    rearm(tracker, dirty);
  }
  return dirty;
}

async function save({ memoryBytes, filledBytes, filled, workingSet }: Snapshot, path: string): Promise<void> {
  const workload = { workingSetBytes: 16 * MIB, pagesPerSecond: 5000, order: 'random' } as const;
  const source = await Machine.create({ memoryBytes, vcpus: 2, overcommit: true, workload });
  try {
    let left = Math.ceil(filledBytes / MIB);
    const { blocks } = source.memory;
    for (const block of filled === 'start' ? blocks : [...blocks].reverse()) {
      for (let i = 0; i < block.byteLength / MIB - GUEST_MIB && left > 0; i++, left--) {
        const at = filled === 'start' ? GUEST_MIB + i : block.byteLength / MIB - 1 - i;
        block.view(at * MIB, MIB).fill(1 + (left & 127));
      }
    }
    await source.resume();
    await sleep(500);
    const { description } = source;
    const order = workingSet === true ? { workingSet: await writtenIn(1000, source) } : {};
    await migrate(source, connectTo(file({ path })), { description, ...order }).result;
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
