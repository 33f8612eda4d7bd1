import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DirtyBitmap, DirtyBitmaps, migrate, receive } from '@godwit/core';
import { Machine } from '@godwit/example-node-vmm';
import { AccessTracker } from '@godwit/linux';
import { checkSnapshot, connectTo, file, listenOn } from '@godwit/transport';
import { faultThreads } from '@godwit/workers';
import { afterEach, expect, test } from '@jest/globals';

/** What read-write protection has seen of a live KVM guest goes first where the guest is restored. */

const MIB = 2 ** 20;
/** Where the bundled guest's working set begins at the earliest, and how large it is. */
const WRITES = { at: MIB, byteLength: 4 * MIB };
const MEMORY = 64 * MIB;
const SAMPLE_MS = 3000;

const ending: (() => void | Promise<void>)[] = [];
afterEach(async () => {
  for (const end of ending.splice(0).reverse()) await end();
});

/** The working set in a snapshot's file. */
async function savedIn(path: string, pageCount: number): Promise<DirtyBitmap> {
  const bitmap = new DirtyBitmap(pageCount);
  for await (const item of checkSnapshot(path)) {
    if (item.type === 'damage') throw item.error;
    const { offset } = item.metadata.workingSet ?? { offset: -1 };
    bitmap.bytes.set(readFileSync(path).subarray(offset, offset + bitmap.bytes.length));
  }
  return bitmap;
}

test(
  'a guest is sampled, saved with its working set, and restored at once',
  async () => {
    const folder = mkdtempSync(join(tmpdir(), 'working-set-'));
    ending.push(() => rmSync(folder, { recursive: true }));
    const path = join(folder, 'snapshot');
    const source = await Machine.create({
      ...{ memoryBytes: MEMORY, vcpus: 1, memoryFiles: true },
      workload: { workingSetBytes: WRITES.byteLength, pagesPerSecond: 0, order: 'random' },
    });
    ending.push(() => source.close());
    await source.prepared();
    await source.resume();
    const accesses = AccessTracker.forMemory(source.memory);
    await accesses.start();
    ending.push(() => accesses.stop());
    await accesses.sample(new DirtyBitmaps(source.memory));
    const workingSet = new DirtyBitmaps(source.memory);
    await sleep(SAMPLE_MS);
    await accesses.sample(workingSet);
    await accesses.stop();
    const used = workingSet.at(0);
    expect(used.count()).toBeGreaterThan(0);
    // It is the guest's: most of the memory, behind its pages, was not used.
    expect(used.nextDirty((WRITES.at + 4 * WRITES.byteLength) / 4096)).toBe(-1);

    await migrate(source, connectTo(file({ path })), { description: source.description, workingSet }).result;
    const saved = await savedIn(path, used.pageCount);
    expect([saved.count(), saved.contains(used)]).toEqual([used.count(), true]);

    const faults = faultThreads();
    ending.push(() => faults.close());
    const machine = await Machine.fromDescription(source.description, { memoryFiles: true });
    ending.push(() => machine.close());
    await machine.prepared();
    const links = await listenOn(file({ path }));
    ending.push(() => links.close());
    const { summary } = await receive(links, { prepare: () => machine, run: 'at once', faults }).result;
    expect(summary.faults).toMatchObject({ pagesMissing: 0, pagesLost: 0 });
    expect(machine.state).toBe('running');
  },
  20 * 60_000,
);
