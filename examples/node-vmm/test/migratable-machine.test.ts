import { setTimeout as sleep } from 'node:timers/promises';
import type { MigratableDevice } from '@godwit/core';
import { Machine, type MachineConfig, type VirtualMachine } from '@godwit/example-node-vmm';
import { IMAGE_ADDRESS } from '@godwit/example-node-vmm/guest';
import { hostSupport, Userfaultfd } from '@godwit/linux';
import { readFd, Uffd } from '@godwit/linux/unstable';
import { afterEach, describe, expect } from '@jest/globals';
import { filter, firstValueFrom } from 'rxjs';
import { VcpuDevice } from '../dist/vcpu/vcpu-device.js';
import { inChunks, moveGuest, savedState } from './cold-migration.js';
import { KINDS, type KindUnderTest, NO_KVM, testUnless } from './machine-kinds.js';
import { ObservedGuest } from './observed-guest.js';

/** `MigratableVm` and `MigratableDevice` of the machines, beyond running, stopping, saving and loading. */

const MIB = 2 ** 20;
const SMALL: MachineConfig = {
  memoryBytes: 32 * MIB,
  vcpus: 2,
  workload: { workingSetBytes: MIB, pagesPerSecond: 4000, heartbeatMicroseconds: 10_000 },
};

const machines: VirtualMachine[] = [];
afterEach(async () => {
  await Promise.all(machines.splice(0).map((machine) => machine.close()));
});

function kept<M extends VirtualMachine>(machine: M): M {
  machines.push(machine);
  return machine;
}

/** A machine whose guest runs, and an `ObservedGuest` for its console. */
async function running(kind: KindUnderTest): Promise<{ machine: VirtualMachine; guest: ObservedGuest }> {
  const machine = kept(await kind.create(SMALL));
  const guest = new ObservedGuest();
  guest.follow(machine);
  await machine.resume();
  await guest.moreBeats(2);
  return { machine, guest };
}

/** The types of all events of a machine from now on. */
function happenings(machine: VirtualMachine): string[] {
  const seen: string[] = [];
  machine.events.subscribe(({ type }) => seen.push(type));
  return seen;
}

/** Waits for so many turns of the microtask queue: promises settle meanwhile, and no message of a thread arrives. */
async function microtasks(turns: number): Promise<void> {
  for (let i = 0; i < turns; i++) await Promise.resolve();
}

testUnless(NO_KVM)(
  'a vCPU that is prepared for a guest knows what loading takes; one of a new guest does not',
  async () => {
    const next = kept(await Machine.fromDescription({ kind: 'kvm', memoryBytes: 32 * MIB, vcpus: 2 }));
    const expected = (machine: Machine) =>
      machine.devices.filter((device) => device instanceof VcpuDevice).map((device) => device.expectedLoadMs());
    expect(expected(next)).toEqual([undefined, undefined]);
    await next.prepared();
    await next.prepared();
    expect(expected(next).filter((ms) => ms !== undefined && ms > 0)).toHaveLength(2);
    // Nothing was loaded that writes guest memory.
    expect(next.devices.flatMap((device) => [...(device.loadWrites?.() ?? [])])).toEqual([]);
    expect(next.memory.allocatedBytes()).toBe(0);
    const booted = kept(await Machine.create(SMALL));
    await booted.prepared();
    expect(expected(booted)).toEqual([undefined, undefined]);
  },
);

testUnless(NO_KVM)('a load that begins during a rehearsal is not overwritten by it', async () => {
  const source = kept(await Machine.create(SMALL));
  await source.resume();
  await source.pause();
  const registers = async (device: Pick<MigratableDevice, 'id' | 'save'>) => {
    const bytes = await savedState(device);
    const at = Buffer.from(bytes).indexOf('REGS');
    expect(at).toBeGreaterThan(0);
    // The section's tag, its length, and its bytes: rax to rip.
    return Buffer.from(bytes.subarray(at, at + 8 + 17 * 8));
  };
  for (const turns of [0, 3, 9, 20]) {
    const next = kept(await Machine.fromDescription(source.description));
    const device = next.devices.find((each) => each instanceof VcpuDevice);
    const from = source.devices.find(({ id }) => id === device?.id);
    if (device === undefined || from === undefined) throw new Error('a machine has a vCPU');
    const state = await savedState(from);
    const rehearsal = device.rehearseLoad();
    await microtasks(turns);
    await Promise.all([device.load(inChunks(state, state.byteLength), from.version), rehearsal]);
    expect((await registers(device)).equals(await registers(from))).toBe(true);
    await next.close();
  }
});

describe.each(KINDS)('a $kind machine', (kind) => {
  kind.test('once it is prepared, no device waits for anything to load', async () => {
    const { machine } = await running(kind);
    const next = kept(await kind.fromDescription(machine.description));
    await next.prepared();
    await machine.pause();
    for (const device of next.devices) {
      const twin = machine.devices.find(({ id }) => id === device.id);
      const state = await savedState(twin ?? device);
      let loaded = false;
      const loading = device.load(inChunks(state), device.version).then(() => {
        loaded = true;
      });
      // A load that takes longer than this turn of the event loop waits for a thread or a timer.
      await new Promise(setImmediate);
      expect([device.id, loaded]).toEqual([device.id, true]);
      await loading;
    }
  });

  kind.test('a guest that is loaded while its machine prepares runs on', async () => {
    let { machine, guest } = await running(kind);
    for (const turns of [0, 1, 2, 3, 5, 8, 13, 21]) {
      await machine.pause();
      const next = kept(await kind.fromDescription(machine.description));
      const preparing = next.prepared();
      await microtasks(turns);
      await Promise.all([moveGuest(machine, next), preparing]);
      await machine.close();
      machine = next;
      guest.follow(machine);
      await machine.resume();
      await guest.moreBeats(2);
    }
    await machine.pause();
    expect(guest.problems).toEqual([]);
    guest.checkMemory(machine);
  });

  kind.test('a machine that is closed while it starts is not prepared', async () => {
    const machine = await kind.fromDescription({ kind: kind.kind, memoryBytes: 32 * MIB, vcpus: 2 });
    const preparing = machine.prepared();
    preparing.catch(() => {});
    await machine.close();
    await expect(preparing).rejects.toMatchObject({ code: 'GODWIT_INVALID_STATE' });
    await expect(machine.prepared()).rejects.toMatchObject({ code: 'GODWIT_INVALID_STATE' });
  });

  kind.test('has the run state that its user has asked for', async () => {
    const machine = await kind.create(SMALL);
    expect(machine.runState()).toBe('paused');
    await machine.resume();
    expect(machine.runState()).toBe('running');
    await machine.pause();
    expect(machine.runState()).toBe('paused');
    await machine.resume();
    const closing = machine.close();
    // The engine does not migrate a guest whose state is `ended`.
    expect(machine.runState()).toBe('ended');
    await closing;
    expect(machine.runState()).toBe('ended');
  });

  kind.test('a pause that is given up leaves the guest running as before', async () => {
    const { machine, guest } = await running(kind);
    const seen = happenings(machine);
    const given = { code: 'GODWIT_CANCELLED', cause: 'enough' };
    await expect(machine.pause(AbortSignal.abort('enough'))).rejects.toMatchObject(given);
    for (const turns of [0, 1, 2, 3, 5, 10]) {
      // No thread can have answered before the abort: its message needs a turn of the event loop.
      const giveUp = new AbortController();
      const pausing = machine.pause(giveUp.signal);
      pausing.catch(() => {});
      await microtasks(turns);
      giveUp.abort('enough');
      await expect(pausing).rejects.toMatchObject(given);
      expect(machine.runState()).toBe('running');
      await guest.moreBeats(1);
    }
    expect(seen).toEqual([]);
    expect(guest.problems).toEqual([]);
  });

  kind.test('nothing that a given-up pause left behind starts a guest that was paused since', async () => {
    const { machine, guest } = await running(kind);
    const giveUp = new AbortController();
    const pausing = machine.pause(giveUp.signal);
    pausing.catch(() => {});
    await microtasks(3);
    const again = machine.pause();
    giveUp.abort();
    await expect(pausing).rejects.toMatchObject({ code: 'GODWIT_CANCELLED' });
    await again;
    const { beats } = guest;
    const mailbox = await mailboxState(machine);
    // The time of several heartbeats, in which a start that was left over would show.
    await sleep(60);
    expect([machine.runState(), guest.beats]).toEqual(['paused', beats]);
    expect(await mailboxState(machine)).toBe(mailbox);
  });

  kind.test('an abort that comes after the pause, or to a guest that was paused before, changes nothing', async () => {
    const { machine, guest } = await running(kind);
    const giveUp = new AbortController();
    await machine.pause(giveUp.signal);
    giveUp.abort();
    await microtasks(10);
    expect(machine.runState()).toBe('paused');
    await machine.pause(giveUp.signal);
    expect(machine.runState()).toBe('paused');
    await machine.resume();
    await guest.moreBeats(2);
    expect(guest.problems).toEqual([]);
  });

  kind.test('paused, given up and resumed 300 times in every order, the guest keeps going', async () => {
    const { machine, guest } = await running(kind);
    for (let i = 0; i < 300; i++) {
      const giveUp = new AbortController();
      const pausing = machine.pause(giveUp.signal).then(
        () => true,
        () => false,
      );
      if (i % 3 !== 0) setTimeout(() => giveUp.abort(), i % 2);
      else await microtasks(i % 7).then(() => giveUp.abort());
      const paused = await pausing;
      expect(machine.runState()).toBe(paused ? 'paused' : 'running');
      if (i % 5 === 0) await machine.pause();
      await machine.resume();
    }
    await guest.moreBeats(3);
    await machine.pause();
    expect(guest.problems).toEqual([]);
    guest.checkMemory(machine);
  });

  kind.test('after stop-and-copies that were given up, all of its state is saved and loaded again', async () => {
    const { machine, guest } = await running(kind);
    const next = kept(await kind.fromDescription(machine.description));
    await next.prepared();
    for (let attempt = 1; attempt <= 4; attempt++) {
      await machine.pause();
      await moveGuest(machine, next);
      if (attempt === 4) break;
      await machine.resume();
      await guest.moreBeats(2);
    }
    // The states of devices without a clock are equal, byte by byte.
    for (const id of ['serial', 'mailbox', 'software-cpu']) {
      const [from, to] = [machine, next].map(({ devices }) => devices.find((device) => device.id === id));
      if (from === undefined || to === undefined) continue;
      expect(Buffer.from(await savedState(to))).toEqual(Buffer.from(await savedState(from)));
    }
    // Both clocks count on: this one is read first. CLOCK_REALTIME is read in whole milliseconds.
    const guestTime = machine.guestMicroseconds;
    expect(next.guestMicroseconds).toBeGreaterThanOrEqual(guestTime - 1000);
    await machine.close();
    guest.follow(next);
    await next.resume();
    await guest.moreBeats(4);
    await next.pause();
    expect(guest.problems).toEqual([]);
    guest.checkMemory(next);
  });

  kind.test('loading its devices writes no guest memory, and they say so', async () => {
    const { machine } = await running(kind);
    await machine.pause();
    const next = kept(await kind.fromDescription(machine.description));
    await next.prepared();
    for (const device of next.devices) {
      const twin = machine.devices.find(({ id }) => id === device.id);
      await device.load(inChunks(await savedState(twin ?? device)), device.version);
      expect([device.id, [...(device.loadWrites?.() ?? ['everything'])]]).toEqual([device.id, []]);
    }
    expect(next.memory.allocatedBytes()).toBe(0);
  });
});

/** Why a vCPU cannot be made to wait for a page of guest memory here. */
const { userfaultfd } = hostSupport();
const NO_FAULTS = NO_KVM ?? (userfaultfd.usable ? undefined : userfaultfd.reason);

testUnless(NO_FAULTS)(
  'a pause that waits for a vCPU is given up at once, and one that waits long enough resolves',
  async () => {
    // Prints the line at 4 MiB, where its thread has to wait for the page, then an x, and goes round for ever.
    const line = [0xba, 0x10, 0x05, 0x00, 0x00, 0xb8, 0x00, 0x00, 0x40, 0x00, 0xef];
    const letter = [0xba, 0xf8, 0x03, 0x00, 0x00, 0xb0, 0x78, 0xee];
    const program = { address: IMAGE_ADDRESS, bytes: Uint8Array.from([...line, ...letter, 0xeb, 0xfe]) };
    const machine = kept(await Machine.create({ memoryBytes: 16 * MIB, vcpus: 1, program }));
    let text = '';
    const printed = new Promise<void>((resolve) => {
      machine.console.subscribe((piece) => {
        text += piece;
        resolve();
      });
    });
    const faults = Userfaultfd.open(0);
    try {
      const page = (machine.memory.blocks[0]?.hostAddress ?? 0n) + BigInt(4 * MIB);
      faults.register(page, 4096, Uffd.UFFDIO_REGISTER_MODE_MISSING);
      await machine.resume();
      while (readFd(faults.fd, new Uint8Array(32)) < 0) await new Promise(setImmediate);
      const giveUp = new AbortController();
      let outcome: unknown = 'pending';
      void machine.pause(giveUp.signal).then(
        () => {
          outcome = 'paused';
        },
        (error: unknown) => {
          outcome = error;
        },
      );
      await sleep(20);
      expect(outcome).toBe('pending');
      giveUp.abort();
      await new Promise(setImmediate);
      expect(outcome).toMatchObject({ code: 'GODWIT_CANCELLED' });
      expect(machine.runState()).toBe('running');
      const patient = machine.pause();
      await sleep(20);
      expect(machine.state).toBe('running');
      faults.unregister(page, 4096);
      await patient;
    } finally {
      faults.close();
    }
    expect([machine.state, text]).toEqual(['paused', '']);
    await machine.resume();
    await printed;
    await machine.pause();
    expect(text).toBe('x');
  },
);

testUnless(NO_KVM)('a vCPU whose registers make KVM write guest memory reports these pages', async () => {
  const shape = { memoryBytes: 16 * MIB, vcpus: 1 };
  const machine = kept(await Machine.create(shape));
  const next = kept(await Machine.fromDescription({ kind: 'kvm', ...shape }));
  await next.prepared();
  const [from, to] = [machine, next].map(({ devices }) => devices.find(({ id }) => id === 'vcpu0'));
  if (from === undefined || to === undefined) throw new Error('the machine has no vcpu0');
  const state = Buffer.from(await savedState(from));
  // MSR_KVM_WALL_CLOCK_NEW (asm/kvm_para.h), as a Linux guest sets it: the wall clock at 4 MiB.
  const entry = state.indexOf(Buffer.from(Uint32Array.of(0x4b56_4d00).buffer));
  state.writeBigUInt64LE(BigInt(4 * MIB), entry + 4);
  await to.load(inChunks(state), to.version);
  const [ram] = next.memory.blocks;
  const written = [...(ram?.populated() ?? [])]
    .flatMap(({ firstPage, pageCount }) => Array.from({ length: pageCount }, (_, i) => firstPage + i))
    .filter((page) => ram?.view(page * 4096, 4096).some((byte) => byte !== 0))
    .map((firstPage) => ({ firstPage, pageCount: 1 }));
  expect(written).toEqual([{ firstPage: 1024, pageCount: 1 }]);
  expect([...(to.loadWrites?.() ?? [])]).toEqual(written.map((run) => ({ block: 0, ...run })));
});

testUnless(NO_KVM)('a guest that has crashed has ended, from the moment that it is known', async () => {
  // ud2, without a table of interrupts: a triple fault.
  const program = { address: IMAGE_ADDRESS, bytes: Uint8Array.of(0x0f, 0x0b) };
  const machine = kept(await Machine.create({ memoryBytes: 16 * MIB, vcpus: 1, program }));
  const crashed = firstValueFrom(machine.events.pipe(filter(({ type }) => type === 'crashed')));
  await machine.resume();
  await crashed;
  expect(machine.runState()).toBe('ended');
  // `pause` resolves for a crashed guest: the engine goes by the run state.
  await machine.pause();
  expect(machine.runState()).toBe('ended');
  await expect(machine.prepared()).rejects.toMatchObject({ code: 'GODWIT_GUEST_CRASHED' });
});

/** Changes every 10 ms while the machine runs. */
async function mailboxState(machine: VirtualMachine): Promise<string> {
  const mailbox = machine.devices.find(({ id }) => id === 'mailbox');
  if (mailbox === undefined) throw new Error('the machine has no mailbox');
  return Buffer.from(await savedState(mailbox)).toString('hex');
}
