import { rmSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type BackgroundReport, migrate } from '@godwit/core';
import { hasKvm, Machine } from '@godwit/example-node-vmm';
import { CONTROL, controlAddress } from '@godwit/example-node-vmm/guest';
import { connectTo, file } from '@godwit/transport';
import { type WriteProtectionThreads, writeProtection } from '@godwit/workers';
import { cacheFolder } from '../qemu/cache-folder.js';
import { median, printReport, type Row } from '../report.js';

const MIB = 2 ** 20;
/** The longest pause of a guest that writes flat out. Milliseconds. */
const TARGET_MS = 10;
const CANNOT_RUN_HERE = 3;
const VCPUS = 2;
/** How long the guest runs before each snapshot; its speed in the last part of this time is the reference. Milliseconds. */
const WARM_MS = 1000;
const SPEED_MS = 500;

export interface BackgroundOptions {
  readonly runs: number;
  /** Memory of the guest. MiB. */
  readonly size: number;
  readonly json: boolean;
}

interface Saved {
  readonly report: BackgroundReport;
  readonly totalMs: number;
  /** Pages that the guest wrote a second, before the snapshot, and from the end of its pause until every page was saved. */
  readonly before: number;
  readonly meanwhile: number;
}

/**
 * `npm run bench -- background`: saves snapshots of a KVM guest that writes flat out and runs on, and measures its pause and its speed
 * while its pages are saved.
 */
export async function backgroundBenchmark({ runs, size, json }: BackgroundOptions): Promise<void> {
  if (!hasKvm()) {
    process.stderr.write('background: cannot run here: no access to /dev/kvm\n');
    process.exitCode = CANNOT_RUN_HERE;
    return;
  }
  const folder = await mkdtemp(join(cacheFolder('background'), 'disk-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  const background = writeProtection();
  const rows: Row[] = [];
  try {
    for (const order of ['sequential', 'random'] as const) {
      const all = await saveAll({ order, runs, size, background, path: join(folder, 'snapshot') });
      rows.push(...rowsOf(order, all));
    }
  } finally {
    await background.close();
    rmSync(folder, { recursive: true, force: true });
  }
  const notes = [
    `a guest of ${size} MiB and ${VCPUS} vCPUs that writes half of it flat out; the rest is filled, so that all of it is saved`,
    'its speed: pages written a second from the end of the pause until all is saved, as a share of those before the snapshot',
  ];
  printReport({ benchmark: `background: a snapshot of a guest that runs on, median of ${runs}`, rows, notes }, json);
}

async function saveAll({
  order,
  runs,
  size,
  background,
  path,
}: {
  readonly order: 'sequential' | 'random';
  readonly runs: number;
  readonly size: number;
  readonly background: WriteProtectionThreads;
  readonly path: string;
}): Promise<Saved[]> {
  const memoryBytes = size * MIB;
  const workload = { workingSetBytes: memoryBytes / 2, pagesPerSecond: 0, order } as const;
  const machine = await Machine.create({ memoryBytes, vcpus: VCPUS, workload });
  try {
    await machine.prepared();
    await machine.resume();
    // Every MiB that is still all zero is outside the working set, and is filled below so that it is populated. The guest must have written
    // its whole working set before: a MiB of it that is still zero would be overwritten.
    while (mark(machine).writes < memoryBytes / 2 / 4096) await sleep(WARM_MS / 10);
    await machine.pause();
    for (const block of machine.memory.blocks) {
      const holes = new Uint8Array(MIB);
      for (let at = 0; at < block.byteLength; at += MIB) {
        const length = Math.min(MIB, block.byteLength - at);
        const bytes = block.view(at, length);
        if (bytes.every((byte) => byte === 0)) bytes.set(holes.fill(1 + ((at / MIB) & 127)).subarray(0, length));
      }
    }
    await machine.resume();
    const all: Saved[] = [];
    for (let run = 0; run < runs; run++) all.push(await save(machine, background, path));
    return all;
  } finally {
    await machine.close();
  }
}

async function save(machine: Machine, background: WriteProtectionThreads, path: string): Promise<Saved> {
  await background.ready();
  await sleep(WARM_MS - SPEED_MS);
  const from = mark(machine);
  await sleep(SPEED_MS);
  const to = mark(machine);
  const saving = migrate(machine, connectTo(file({ path })), {
    ...{ background, description: machine.description },
    // No bound: the benchmark is to show a pause that is too long.
    pauseLimitMs: 0,
    // On a slow disk the rename of the file may take long.
    switchoverTimeoutMs: 300_000,
  });
  let resumed = to;
  let pauses = 0;
  saving.subscribe((event) => {
    if (event.type === 'state' && event.previous === 'device') {
      resumed = mark(machine);
      pauses++;
    }
  });
  const { background: report, totalMs } = await saving.result;
  const end = mark(machine);
  if (report === undefined || pauses !== 1) throw new Error('this was no background snapshot');
  return { report, totalMs, before: speed(from, to), meanwhile: speed(resumed, end) };
}

interface Mark {
  readonly writes: number;
  readonly at: number;
}

/** Pages that all vCPUs have written so far. */
function mark({ ram }: Machine): Mark {
  let writes = 0;
  for (let vcpu = 0; vcpu < VCPUS; vcpu++) {
    const { buffer, byteOffset } = ram.view(controlAddress(vcpu) + CONTROL.WRITES, 8);
    writes += Number(new DataView(buffer, byteOffset).getBigUint64(0, true));
  }
  return { writes, at: performance.now() };
}

function speed(from: Mark, to: Mark): number {
  return ((to.writes - from.writes) / (to.at - from.at)) * 1000;
}

function rowsOf(order: string, all: readonly Saved[]): Row[] {
  const of = (pick: (one: Saved) => number): number => median(all.map(pick));
  const ms = (name: string, pick: (report: BackgroundReport) => number, atMost?: number): Row => ({
    ...{ name: `${order}: ${name}`, value: of(({ report }) => pick(report)), unit: 'ms' },
    ...(atMost === undefined ? {} : { atMost }),
  });
  const MIB_S = ({ report }: Saved): number => report.protection.writtenBytes / MIB / (report.savingMs / 1000);
  return [
    ms('the guest is paused', ({ pausedMs }) => pausedMs, TARGET_MS),
    {
      name: `${order}: the longest of these`,
      value: Math.max(...all.map(({ report }) => report.pausedMs)),
      unit: 'ms',
    },
    ms('  to stop it', ({ stopMs }) => stopMs),
    ms('  to save its devices', ({ devicesMs }) => devicesMs),
    ms('  to protect what it wrote meanwhile', ({ freezeMs }) => freezeMs),
    ms('  to let it run', ({ resumeMs }) => resumeMs),
    ms('to protect all memory, before', ({ protectMs }) => protectMs),
    ms('until every page is saved', ({ savingMs }) => savingMs),
    { name: `${order}: saved beside the guest`, value: of(MIB_S), unit: 'MiB/s' },
    {
      name: `${order}: speed of the guest`,
      value: of(({ before, meanwhile }) => (meanwhile / before) * 100),
      unit: '%',
    },
    { name: `${order}: faults`, value: of(({ report }) => report.protection.faults), unit: '' },
    { name: `${order}: pages copied for them`, value: of(({ report }) => report.protection.pagesCopied), unit: '' },
    {
      name: `${order}: the longest fault`,
      value: of(({ report }) => report.protection.worstLatencyUs / 1000),
      unit: 'ms',
    },
    {
      name: `${order}: copies in the buffer at most`,
      value: of(({ report }) => report.protection.bufferHighBytes / MIB),
      unit: 'MiB',
    },
  ];
}
