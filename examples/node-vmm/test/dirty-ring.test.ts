import { DirtyBitmaps } from '@godwit/core';
import { Machine, type MachineConfig } from '@godwit/example-node-vmm';
import { hostSupport, KvmDirtyRingTracker } from '@godwit/linux';
import { afterEach, expect } from '@jest/globals';
import { testUnless } from './machine-kinds.js';
import { ObservedGuest } from './observed-guest.js';

const MIB = 2 ** 20;
const support = hostSupport().kvmDirtyRing;
const testRing = testUnless(support.usable ? undefined : support.reason);

const machines: Machine[] = [];
afterEach(async () => {
  await Promise.all(machines.splice(0).map((machine) => machine.close()));
});

async function running(
  config: Partial<MachineConfig>,
): Promise<{ machine: Machine; guest: ObservedGuest; tracker: KvmDirtyRingTracker }> {
  const machine = await Machine.create({ memoryBytes: 32 * MIB, vcpus: 2, ...config });
  machines.push(machine);
  const guest = new ObservedGuest();
  guest.follow(machine);
  await machine.resume();
  await guest.moreBeats(2);
  const [tracker] = machine.trackers;
  if (!(tracker instanceof KvmDirtyRingTracker)) throw new Error('it was made with dirty rings');
  return { machine, guest, tracker };
}

testRing('each vCPU has a ring: a harvest has what it writes, and vcpuWrites counts it for each vCPU', async () => {
  const { machine, guest, tracker } = await running({
    dirtyRing: true,
    workload: { workingSetBytes: 2 * MIB, pagesPerSecond: 4000 },
  });
  const { memory, trackers } = machine;
  for (const each of trackers) await each.start();
  machine.vcpuWrites?.();
  const written = [0, 0];
  // On a busy host a vCPU may not run for a while.
  do {
    await guest.moreBeats(5);
    const now = machine.vcpuWrites?.() ?? [];
    expect(now).toHaveLength(2);
    for (const [vcpu, count] of now.entries()) written[vcpu] = (written[vcpu] ?? 0) + count;
  } while (written.includes(0));
  await machine.pause();
  const dirty = new DirtyBitmaps(memory);
  for (const each of trackers) await each.harvest(dirty);
  const before = memory.blocks.map((block) => Uint8Array.from(block.view(0, block.byteLength)));
  expect(dirty.count()).toBeGreaterThan(0);
  for (const { dirtyPagesPerSecond } of tracker.vcpus()) expect(dirtyPagesPerSecond).toBeGreaterThan(0);

  await machine.resume();
  await guest.moreBeats(5);
  await machine.pause();
  dirty.clearAll();
  for (const each of trackers) await each.harvest(dirty);
  const missed: string[] = [];
  for (const [i, block] of memory.blocks.entries()) {
    for (let at = 0; at < block.byteLength; at += memory.pageSize) {
      const then = (before[i] as Uint8Array).subarray(at, at + memory.pageSize);
      if (Buffer.compare(block.view(at, memory.pageSize), then) === 0) continue;
      if (!dirty.at(i).has(at / memory.pageSize)) missed.push(`${block.id} ${at}`);
    }
  }
  expect(missed).toEqual([]);
  await machine.resume();
  for (const each of trackers) await each.stop();
  expect(guest.problems).toEqual([]);
});

testRing('vCPUs whose rings are far too small wait for the thread that reaps them, and run on', async () => {
  const { machine, guest, tracker } = await running({
    dirtyRing: 4096,
    workload: { workingSetBytes: 8 * MIB, wholePages: true },
  });
  for (let i = 0; i < 2; i++) {
    await tracker.start();
    // A processor that needs no emulation may be too slow to fill a ring before it is reaped.
    const full = (): boolean => tracker.calls.fullExits().some((times) => times > 0);
    for (let beats = 0; beats < 40 && !full(); beats++) await guest.moreBeats(1);
    const dirty = new DirtyBitmaps(machine.memory);
    // A KVM that emulates instructions overruns such rings: the tracker's harvest then fails, and is started again below.
    await tracker
      .harvest(dirty)
      .catch((error: unknown) => expect(error).toMatchObject({ code: 'GODWIT_TRACKER_FAILED' }));
    await guest.moreBeats(3);
    await tracker.stop();
    await guest.moreBeats(3);
  }
  expect(guest.problems).toEqual([]);
});

testRing('a machine without rings has a dirty log, and an impossible size of rings is refused', async () => {
  const machine = await Machine.create({ memoryBytes: 32 * MIB, vcpus: 1 });
  machines.push(machine);
  expect(machine.trackers[0]?.name).toBe('kvm');
  await expect(Machine.create({ memoryBytes: 32 * MIB, vcpus: 1, dirtyRing: 1000 })).rejects.toMatchObject({
    code: 'GODWIT_INVALID_ARGUMENT',
  });
});
