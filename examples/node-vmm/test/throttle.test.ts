import { setTimeout as sleep } from 'node:timers/promises';
import { DirtyBitmaps } from '@godwit/core';
import { Machine, type MachineConfig, type VirtualMachine } from '@godwit/example-node-vmm';
import { IMAGE_ADDRESS } from '@godwit/example-node-vmm/guest';
import { afterEach, expect } from '@jest/globals';
import { KINDS, type KindUnderTest, NO_KVM, testUnless } from './machine-kinds.js';
import { ObservedGuest } from './observed-guest.js';

const MIB = 2 ** 20;
const testKvm = testUnless(NO_KVM);
/** Two vCPUs that write as fast as they can. */
const BUSY: MachineConfig = {
  memoryBytes: 32 * MIB,
  vcpus: 2,
  workload: { workingSetBytes: MIB, heartbeatMicroseconds: 10_000 },
};

const machines: VirtualMachine[] = [];
afterEach(async () => {
  await Promise.all(machines.splice(0).map((machine) => machine.close()));
});

async function busy(kind: KindUnderTest): Promise<{ machine: VirtualMachine; guest: ObservedGuest }> {
  const machine = await kind.create(BUSY);
  machines.push(machine);
  const guest = new ObservedGuest();
  guest.follow(machine);
  await machine.resume();
  await guest.moreBeats(2);
  return { machine, guest };
}

/** The guest's writes a second, and the share of time for which it was held, over the next heartbeats and by its own clock. */
async function observed(
  machine: VirtualMachine,
  guest: ObservedGuest,
): Promise<{ writesPerSecond: number; heldShare: number }> {
  await guest.moreBeats(1);
  const [from, [heldBefore = 0]] = [guest.last, machine.heldMs()];
  await guest.moreBeats(25);
  const [to, [heldAfter = 0]] = [guest.last, machine.heldMs()];
  if (from === undefined || to === undefined) throw new Error(`no heartbeats: ${guest.problems.join(', ')}`);
  const seconds = (to.clock - from.clock) / 1e6;
  return { writesPerSecond: (to.writes - from.writes) / seconds, heldShare: (heldAfter - heldBefore) / 1000 / seconds };
}

for (const kind of KINDS) {
  kind.test(`${kind.kind}: a throttle takes its fraction of the guest's writes, and gives it back`, async () => {
    const { machine, guest } = await busy(kind);
    // The rates are measured in turn, since other processes use more or less of the host in the meantime.
    const rates = { full: 0, half: 0, tenth: 0 };
    const shares = { half: 0, tenth: 0 };
    const turns = 4;
    for (let turn = 0; turn < turns; turn++) {
      machine.throttle(0);
      rates.full += (await observed(machine, guest)).writesPerSecond / turns;
      for (const [name, fraction] of [
        ['half', 0.5],
        ['tenth', 0.9],
      ] as const) {
        machine.throttle(fraction, { longestMs: 300 });
        const { writesPerSecond, heldShare } = await observed(machine, guest);
        rates[name] += writesPerSecond / turns;
        shares[name] += heldShare / turns;
      }
    }
    const [half, tenth] = [rates.half / rates.full, rates.tenth / rates.full];
    process.stderr.write(
      `${kind.kind}: throttled by 50 %: ${half.toFixed(3)} of the writes, held for ${shares.half.toFixed(3)} of the time; ` +
        `by 90 %: ${tenth.toFixed(3)}, ${shares.tenth.toFixed(3)}\n`,
    );
    // On an idle host 0.5 and 0.1. On a busy one a vCPU at full speed loses more time to other processes than a throttled vCPU.
    expect(half).toBeGreaterThan(0.25);
    expect(half).toBeLessThan(0.85);
    expect(tenth).toBeGreaterThan(0.02);
    expect(tenth).toBeLessThan(Math.min(half * 0.75, 0.4));
    expect(Math.abs(shares.half - 0.5)).toBeLessThan(0.2);
    expect(Math.abs(shares.tenth - 0.9)).toBeLessThan(0.2);
    const held = machine.heldMs();
    expect(held.every((ms) => ms > 0)).toBe(true);
    machine.throttle(0);
    await guest.moreBeats(2);
    const after = machine.heldMs();
    await guest.moreBeats(5);
    expect(machine.heldMs()).toEqual(after);
    await machine.pause();
    expect(guest.problems).toEqual([]);
    guest.checkMemory(machine);
  });

  kind.test(`${kind.kind}: a vCPU that is held is woken for a rehearsal, a pause and a new throttle`, async () => {
    const { machine, guest } = await busy(kind);
    const tasks = [
      () => machine.rehearsePause(),
      () => machine.pause().then(() => machine.resume()),
      async () => {
        machine.throttle(0);
        machine.throttle(0.99);
        await machine.rehearsePause();
      },
    ];
    for (const task of tasks) {
      machine.throttle(0.99);
      await guest.moreBeats(1);
      // Its holds take 10 ms. Of several tries the best counts: on a busy host any of them may be late.
      const best = [];
      for (let tries = 0; tries < 20; tries++) {
        const [before = 0] = machine.heldMs();
        for (let i = 0; i < 5; i++) await task();
        best.push(((machine.heldMs()[0] ?? 0) - before) / 5);
      }
      expect(Math.min(...best)).toBeLessThan(5);
    }
    machine.throttle(0);
    await guest.moreBeats(3);
    expect(guest.problems).toEqual([]);
    expect(() => machine.throttle(1.5)).toThrow(RangeError);
  });

  kind.test(`${kind.kind}: a rehearsal tells how long a pause would take, and the guest runs on`, async () => {
    const { machine, guest } = await busy(kind);
    const took = [];
    for (let i = 0; i < 200; i++) took.push(await machine.rehearsePause());
    expect(took.filter((ms) => !(ms > 0))).toEqual([]);
    expect(machine.state).toBe('running');
    await guest.moreBeats(2);
    // A pause that comes during a rehearsal, and a rehearsal that comes during a pause: paused in the end.
    for (let i = 0; i < 100; i++) {
      const rehearsal = machine.rehearsePause();
      const pause = machine.pause();
      const late = machine.rehearsePause();
      await Promise.all([rehearsal, pause]);
      expect(await late).toBe(0);
      expect(machine.state).toBe('paused');
      const before = writes(machine);
      expect(await machine.rehearsePause()).toBe(0);
      expect(writes(machine).equals(before)).toBe(true);
      await machine.resume();
    }
    const abort = new AbortController();
    const rehearsal = machine.rehearsePause(abort.signal);
    abort.abort(new Error('nobody waits'));
    await rehearsal.catch((error: unknown) => expect(error).toMatchObject({ message: 'nobody waits' }));
    await guest.moreBeats(3);
    await machine.pause();
    expect(guest.problems).toEqual([]);
    guest.checkMemory(machine);
    await machine.close();
    expect(await machine.rehearsePause()).toBe(0);
  });
}

testKvm('vCPUs are throttled one by one, and where the host can, KVM tells which of them dirties memory', async () => {
  // vCPU 0 writes 1,024 pages over and over and counts at 0x300000; vCPU 1 counts at 0x300008.
  const code = [
    ...[0x85, 0xf6, 0x75, 0x20], // test esi, esi; jnz other
    ...[0xbf, 0x00, 0x00, 0x40, 0x00], // again: mov edi, 0x400000
    ...[0x48, 0xff, 0x07, 0x48, 0xff, 0x04, 0x25, 0x00, 0x00, 0x30, 0x00], // next: inc qword [rdi]; inc qword [0x300000]
    ...[0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, 0x81, 0xff, 0x00, 0x00, 0x80, 0x00], // add edi, 4096; cmp edi, 0x800000
    ...[0x72, 0xe7, 0xeb, 0xe0], // jb next; jmp again
    ...[0x48, 0xff, 0x04, 0x25, 0x08, 0x00, 0x30, 0x00, 0xeb, 0xf6], // other: inc qword [0x300008]; jmp other
  ];
  const program = { address: IMAGE_ADDRESS, bytes: Uint8Array.from(code) };
  const machine = await Machine.create({ memoryBytes: 16 * MIB, vcpus: 2, program });
  machines.push(machine);
  const counters = new BigUint64Array(machine.ram.view(0x30_0000, 16).slice().buffer);
  const counted = (): readonly number[] => {
    new Uint8Array(counters.buffer).set(machine.ram.view(0x30_0000, 16));
    return [...counters].map(Number);
  };
  const harvest = async (): Promise<number> => {
    const dirty = new DirtyBitmaps(machine.memory);
    for (const tracker of machine.trackers) await tracker.harvest(dirty);
    for (const tracker of machine.trackers)
      for (const [index, { pageCount }] of dirty.blocks.entries()) tracker.rearm?.(index, 0, pageCount);
    return dirty.count();
  };
  /** Runs until both vCPUs have run through their loops; returns the count of each. */
  const run = async (times: number): Promise<readonly [number, number]> => {
    const before = counted();
    for (let i = 0; i < times; i++) {
      await machine.rehearsePause();
      await harvest();
    }
    const after = counted();
    return [(after[0] ?? 0) - (before[0] ?? 0), (after[1] ?? 0) - (before[1] ?? 0)];
  };
  await machine.resume();
  for (const tracker of machine.trackers) await tracker.start();
  await run(20);
  machine.vcpuWrites?.();
  const full = await run(100);
  const writes = machine.vcpuWrites?.();
  process.stderr.write(`write faults of each vCPU: ${writes?.join(', ') ?? 'not told by this host'}\n`);
  if (writes !== undefined) expect(writes[0]).toBeGreaterThan((writes[1] ?? 0) * 10);
  const before = machine.heldMs();
  machine.throttle(0.5, { longestMs: 300, vcpus: [0.95, 0] });
  const throttled = await run(300);
  const held = machine.heldMs().map((ms, vcpu) => ms - (before[vcpu] ?? 0));
  expect(held[0]).toBeGreaterThan(0);
  expect(held[1]).toBe(0);
  expect(throttled[0] / throttled[1]).toBeLessThan((full[0] / full[1]) * 0.5);
  for (const tracker of machine.trackers) await tracker.stop();
});

testKvm('a throttle reaches a vCPU that never leaves the guest by itself', async () => {
  // next: inc rcx; jmp next
  const program = { address: IMAGE_ADDRESS, bytes: Uint8Array.from([0x48, 0xff, 0xc1, 0xeb, 0xfb]) };
  const machine = await Machine.create({ memoryBytes: 16 * MIB, vcpus: 2, program });
  machines.push(machine);
  await machine.resume();
  for (let i = 0; i < 20; i++) {
    machine.throttle(0.5, { longestMs: 20 });
    // No event tells when a vCPU is held, so that the test polls.
    const before = machine.heldMs();
    while (machine.heldMs().some((ms, vcpu) => ms === before[vcpu])) await sleep(1);
    machine.throttle(0);
    // A vCPU that is still held counts its hold when it is woken, before it answers.
    await machine.rehearsePause();
    const after = machine.heldMs();
    await sleep(25);
    expect(machine.heldMs()).toEqual(after);
  }
});

/** The counters of the guest's writes, which a running guest changes all the time. */
function writes(machine: VirtualMachine): Buffer {
  return Buffer.from(machine.ram.view(0, 64 * 1024));
}
