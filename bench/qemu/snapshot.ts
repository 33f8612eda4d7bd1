import { statSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { SWEEP_DONE } from '@godwit/example-node-vmm/guest';
import { forget, synchronize } from './memory/page-cache.js';
import { warmMemory } from './memory/warm-memory.js';
import { withOpened } from './opened.js';
import type { Sample } from './sample.js';
import { type GuestSpec, type MoveSettings, now, type Vmm } from './vmm.js';

const MIB = 2 ** 20;
const STAT_BLOCK = 512;
const LONGEST_MS = 180_000;

/** A snapshot to a file on a disk, from which a guest is restored in a new process. */
export interface Snapshot {
  readonly spec: GuestSpec;
  readonly settings: MoveSettings;
  readonly warmBytes: number;
  /** The file, on a disk and not on tmpfs. It is deleted afterwards. */
  readonly path: string;
}

/** Measures saving until the file is on the disk, and loading without any of it in the page cache. */
export async function measureSnapshot(vmm: Vmm, { spec, settings, warmBytes, path }: Snapshot): Promise<Sample> {
  try {
    const totalMs = await save();
    const diskMiB = (statSync(path).blocks * STAT_BLOCK) / MIB;
    await forget(path);
    return { figures: { totalMs, loadMs: await load(), diskMiB } };
  } finally {
    await rm(path, { force: true });
  }

  function save(): Promise<number> {
    return withOpened(LONGEST_MS, async (opened) => {
      const source = await opened.keep(vmm.boot(spec));
      await source.printed(SWEEP_DONE);
      await warmMemory(warmBytes);
      const startedAtMs = now();
      await source.save(path, settings);
      await synchronize(path);
      return now() - startedAtMs;
    });
  }

  function load(): Promise<number> {
    return withOpened(LONGEST_MS, async (opened) => {
      const destination = await opened.keep(vmm.empty(spec));
      await warmMemory(warmBytes);
      const startedAtMs = now();
      await destination.restore(path, settings);
      return (await destination.arrival()) - startedAtMs;
    });
  }
}
