import { setTimeout as sleep } from 'node:timers/promises';
import { DirtyBitmaps, type DirtyTracker } from '@godwit/core';
import { Machine, type MachineConfig } from '@godwit/example-node-vmm';
import { AccessTracker } from '@godwit/linux';
import { rearm } from '../rearm.js';

/** How a guest is watched. */
export interface WatchOptions {
  readonly intervalMs: number;
  readonly intervals: number;
  /** Cells that guest memory is divided into, from its first page to its last. */
  readonly cells: number;
}

/** One interval: the pages of each cell that were read or written, and those that were written. */
export interface Interval {
  readonly ms: number;
  readonly accessed: readonly number[];
  readonly written: readonly number[];
}

/** What a guest has done. */
export interface Watched {
  readonly pages: number;
  readonly pageSize: number;
  readonly cells: number;
  readonly intervals: readonly Interval[];
  /** Number of pages that were accessed in so many intervals; the first one counts those that never were. */
  readonly heat: readonly number[];
  /** The mean time of a sample of accesses, in milliseconds. */
  readonly sampleMs: number;
}

/** Runs a KVM guest, and watches its accesses (RWP) and its writes (KVM's dirty log) side by side. */
export async function watchGuest(config: MachineConfig, options: WatchOptions): Promise<Watched> {
  const machine = await Machine.create(config);
  const accesses = AccessTracker.forMemory(machine.memory);
  const [log] = machine.trackers as [DirtyTracker];
  try {
    await accesses.start();
    await machine.resume();
    await log.start();
    return await watch(machine, accesses, log, options);
  } finally {
    await accesses.stop();
    await machine.close();
  }
}

async function watch(
  { memory }: Machine,
  accesses: AccessTracker,
  log: DirtyTracker,
  { intervalMs, intervals, cells }: WatchOptions,
): Promise<Watched> {
  const { pageSize } = memory;
  const pages = memory.blocks.reduce((sum, { byteLength }) => sum + byteLength / pageSize, 0);
  const accessed = new DirtyBitmaps(memory);
  const written = new DirtyBitmaps(memory);
  const times = new Uint16Array(pages);
  const result: Interval[] = [];
  let sampleMs = 0;
  let before = performance.now();
  for (let i = 0; i < intervals; i++) {
    await sleep(intervalMs);
    accessed.clearAll();
    written.clearAll();
    const start = performance.now();
    await accesses.sample(accessed);
    sampleMs += performance.now() - start;
    await log.harvest(written);
    rearm(log, written);
    const now = performance.now();
    const counts = { accessed: perCell(accessed, pages, cells, times), written: perCell(written, pages, cells) };
    result.push({ ms: now - before, ...counts });
    before = now;
  }
  const heat = new Array<number>(intervals + 1).fill(0);
  for (const count of times) heat[count] = (heat[count] as number) + 1;
  return { pages, pageSize, cells, intervals: result, heat, sampleMs: sampleMs / intervals };
}

/** Counts the pages of each cell, and adds one to `times` of each page. */
function perCell({ blocks }: DirtyBitmaps, pages: number, cells: number, times?: Uint16Array): number[] {
  const counts = new Array<number>(cells).fill(0);
  let first = 0;
  for (const bitmap of blocks) {
    for (let page = bitmap.nextDirty(0); page !== -1; page = bitmap.nextDirty(page + 1)) {
      const cell = Math.floor(((first + page) * cells) / pages);
      counts[cell] = (counts[cell] as number) + 1;
      if (times !== undefined) times[first + page] = (times[first + page] as number) + 1;
    }
    first += bitmap.pageCount;
  }
  return counts;
}
