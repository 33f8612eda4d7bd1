import { migrate, receive } from '@godwit/core';
import type { VirtualMachine } from '@godwit/example-node-vmm';
import { hostSupport } from '@godwit/linux';
import { connectTo, listenOn, memory } from '@godwit/transport';
import { expect, test } from '@jest/globals';
import { LiveGuest } from '../../guest/live-guest.js';

const MIB = 2 ** 20;
const RING = { dirtyRing: 4096 };

/** A KVM whose processor runs the guest, and does not emulate it: it leaves the guest before a ring is full. */
test('a KVM guest whose writes are logged in the smallest dirty ring moves, compared to the last byte', async () => {
  expect(hostSupport().kvmDirtyRing).toEqual({ usable: true });
  const guest = await LiveGuest.boot({
    ...{ memoryBytes: 16 * MIB, vcpus: 1, ...RING },
    workload: { workingSetBytes: 2 * MIB, pagesPerSecond: 2000 },
  });
  const transport = memory();
  const links = await listenOn(transport);
  try {
    const arrival = receive(links, { prepare: (description) => guest.blank(description, RING) });
    // However slow the emulated processor is: pages have to be dirtied, and sent again, while it runs.
    const { result } = migrate(guest.machine, connectTo(transport), {
      ...{ description: guest.machine.description, verify: true, pauseLimitMs: 120_000 },
      policy: ({ outcome }) => ({ action: outcome.round < 3 ? 'continue' : 'switchover', reason: 'three rounds' }),
    });
    const { verified, rounds } = await result;
    const { vm } = await arrival.result;
    await guest.moved(vm as VirtualMachine);
    expect(verified).toBe(true);
    const harvests = rounds.flatMap(({ trackers }) => trackers.filter(({ name }) => name === 'kvm-ring'));
    expect(harvests.reduce((sum, { dirtyPages }) => sum + dirtyPages, 0)).toBeGreaterThan(0);
    expect(harvests.some(({ failed }) => failed)).toBe(false);
    expect(await guest.examine()).toEqual([]);
  } finally {
    await guest.close();
    await links.close();
  }
}, 900_000);
