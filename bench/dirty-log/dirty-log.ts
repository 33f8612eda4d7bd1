import { setTimeout as sleep } from 'node:timers/promises';
import { DirtyBitmaps, type DirtyTracker } from '@godwit/core';
import { Machine } from '@godwit/example-node-vmm';
import { hostSupport, KvmDirtyRingTracker } from '@godwit/linux';
import { rearm } from '../rearm.js';
import { median, type Report, type Row } from '../report.js';

const PAGE_BYTES = 4096;
const DIRTY_PAGES = [500, 5_000, 20_000] as const;
/** How long the guest writes before each harvest, and how often it is to write each page in that time. */
const WRITE_MS = 300;
const TIMES_EACH = 1.2;

/** The time of one harvest, in milliseconds. */
interface Cost {
  readonly harvestMs: number;
  /** Time to re-arm the pages: the engine re-arms those of the log after the harvest; those of the ring are already re-armed. */
  readonly rearmMs: number;
  readonly dirtyPages: number;
  /** Entries of the ring: more than the dirty pages where KVM emulates instructions, since it then logs every store. */
  readonly entries: number;
}

/**
 * Compares KVM's dirty log with its dirty rings: the time of a harvest of a paused guest, for several numbers of written pages, in guests
 * of three sizes whose memory is mostly untouched.
 */
export async function dirtyLogBenchmark(options: {
  readonly byteLength: number;
  readonly runs: number;
}): Promise<Report> {
  const support = hostSupport().kvmDirtyRing;
  if (!support.usable) return { benchmark: `dirty-log: it cannot run here: ${support.reason}`, rows: [], notes: [] };
  const rows: Row[] = [];
  for (const byteLength of [options.byteLength / 32, options.byteLength / 4, options.byteLength]) {
    for (const pages of DIRTY_PAGES) {
      const log = await costOf(false, byteLength, pages, options.runs);
      const ring = await costOf(true, byteLength, pages, options.runs);
      const name = `${(byteLength / 2 ** 30).toFixed(1)} GiB, about ${pages} pages`;
      const atOnce = log.harvestMs + log.rearmMs;
      rows.push(
        { name: `${name}: dirty by the log`, value: log.dirtyPages, unit: 'pages' },
        {
          name: `${name}: dirty by the ring`,
          value: ring.dirtyPages,
          unit: `pages, ${Math.round(ring.entries)} entries`,
        },
        { name: `${name}: log, harvest`, value: log.harvestMs, unit: 'ms' },
        { name: `${name}: log, harvest and re-arm`, value: atOnce, unit: 'ms' },
        { name: `${name}: ring, harvest (re-armed)`, value: ring.harvestMs, unit: 'ms' },
        { name: `${name}: ring over log, re-armed`, value: ring.harvestMs / atOnce, unit: '' },
      );
    }
  }
  return {
    benchmark: `dirty-log: KVM's dirty log and its dirty rings, guest paused, medians of ${options.runs}`,
    rows,
    notes: ['the ring is reaped by a thread: most of its time the event loop is free'],
  };
}

async function costOf(dirtyRing: boolean, memoryBytes: number, pages: number, runs: number): Promise<Cost> {
  const workload = {
    ...{ workingSetBytes: pages * PAGE_BYTES, heartbeatMicroseconds: 10_000_000 },
    pagesPerSecond: (pages * TIMES_EACH * 1000) / WRITE_MS,
  };
  const machine = await Machine.create({ memoryBytes, vcpus: 1, overcommit: true, dirtyRing, workload });
  const [tracker] = machine.trackers as [DirtyTracker];
  const all: Cost[] = [];
  try {
    const into = new DirtyBitmaps(machine.memory);
    await machine.resume();
    await sleep(2 * WRITE_MS);
    await tracker.start();
    for (let run = 0; run < runs + 1; run++) {
      await sleep(WRITE_MS);
      await machine.pause();
      into.clearAll();
      const entries = waiting(tracker);
      const start = performance.now();
      await tracker.harvest(into);
      const harvested = performance.now();
      rearm(tracker, into);
      const end = performance.now();
      // The first harvest is a warm-up.
      const cost = { harvestMs: harvested - start, rearmMs: end - harvested, dirtyPages: into.count(), entries };
      if (run > 0) all.push(cost);
      await machine.resume();
    }
  } finally {
    await machine.close();
  }
  const of = (key: keyof Cost): number => median(all.map((cost) => cost[key]));
  return { harvestMs: of('harvestMs'), rearmMs: of('rearmMs'), dirtyPages: of('dirtyPages'), entries: of('entries') };
}

function waiting(tracker: DirtyTracker): number {
  return tracker instanceof KvmDirtyRingTracker ? (tracker.waiting()[0] ?? 0) : 0;
}
