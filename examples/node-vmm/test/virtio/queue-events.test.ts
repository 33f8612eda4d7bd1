import { readdirSync } from 'node:fs';
import { Machine, type MachineConfig } from '@godwit/example-node-vmm';
import { Kvm } from '@godwit/linux';
import { afterEach, expect } from '@jest/globals';
import { NO_KVM, testUnless } from '../machine-kinds.js';
import { ListGuest } from './list-guest.js';

function hasEvents(): boolean {
  const kvm = Kvm.open();
  const vm = kvm.createVm();
  try {
    return vm.hasEvents;
  } finally {
    vm.close();
    kvm.close();
  }
}

const testKvm = testUnless(NO_KVM ?? (hasEvents() ? undefined : 'this KVM has no KVM_IOEVENTFD'));
const CONFIG: MachineConfig = {
  ...{ memoryBytes: 32 * 2 ** 20, vcpus: 1 },
  linux: { kernel: ListGuest.kernel },
  virtio: { rng: true },
};

const machines: Machine[] = [];
afterEach(async () => {
  await Promise.all(machines.splice(0).map((machine) => machine.close()));
});

/** A machine whose guest asks for random bytes, many times, and waits for the last. */
async function asking(times: number) {
  const machine = await Machine.create(CONFIG);
  machines.push(machine);
  const guest = new ListGuest(machine, { slot: 0, queues: 1 });
  guest.initialize(1n << 32n);
  const queue = guest.queue(0);
  for (let i = 0; i < times; i++) {
    queue.add([{ room: 16 }]);
    queue.kick();
  }
  queue.setAvailable(0);
  // The guest makes all of them available before it notifies: the first write of the ring's index.
  guest.write(queue.availableRing, times << 16);
  queue.kick();
  guest.waitFor(queue.usedRing + 2);
  return { machine, queue };
}

testKvm('a queue that KVM tells of is served', async () => {
  const { machine, queue } = await asking(20);
  const done = new Promise<void>((resolve) => {
    machine.console.subscribe((text) => text.includes('.') && resolve());
  });
  await machine.resume();
  await done;
  await machine.pause();
  const used = queue.takeUsed();
  expect(used.length).toBeGreaterThan(0);
  expect(used[0]?.written.some((byte) => byte !== 0)).toBe(true);
});

testKvm('a machine that is closed leaves neither a descriptor nor a thread', async () => {
  const before = readdirSync('/proc/self/fd').length;
  const machine = await Machine.create(CONFIG);
  await machine.resume();
  expect(readdirSync('/proc/self/fd').length).toBeGreaterThan(before);
  await machine.close();
  expect(readdirSync('/proc/self/fd')).toHaveLength(before);
});
