import { type MigrationEvent, migrate, receive } from '@godwit/core';
import { type FrameTap, memoryLink } from '@godwit/core/testing';
import { VfioDeviceSet } from '@godwit/vfio';
import { afterEach, expect, test } from '@jest/globals';
import { MttyVm } from '../guest/mtty-vm.js';
import { openDescriptors } from '../guest/open-descriptors.js';

/**
 * Migrations of the kernel's sample device: with a guest that resets the device, with two devices, and with one without a
 * tracker.
 */

const open: MttyVm[] = [];
afterEach(async () => {
  for (const vm of open.splice(0)) await vm.close();
});
function mtty(running: boolean, id?: string): MttyVm {
  const vm = new MttyVm(running, 'mtty-1', id);
  open.push(vm);
  return vm;
}

test('the guest resets its port between two rounds: its state begins anew, and no descriptor is lost', async () => {
  const vm = mtty(true);
  const from = vm.migratable;
  const before = openDescriptors();
  vm.type('old');
  for await (const _ of from.precopy?.() ?? []);
  expect(openDescriptors()).toBe(before + 1);
  await vm.reset();
  expect(from.migration.state()).toBe('RUNNING');
  expect(from.stateBytes()).toBe(24 + 36);
  expect(from.switchoverBlocker()).toBe('the guest has reset serial, and its state has to be streamed anew');
  vm.type('new');
  for await (const _ of from.precopy?.() ?? []);
  expect([openDescriptors(), from.switchoverBlocker()]).toEqual([before + 1, undefined]);
  await from.release();
  expect([openDescriptors(), from.migration.state()]).toEqual([before, 'RUNNING']);
});

test.each(['roundEnd', 'device'])(
  'reset as a "%s" frame is sent: the port arrives as the guest left it',
  async (type) => {
    const source = mtty(true);
    const destination = mtty(false);
    source.type('a');
    let resetting: Promise<void> | undefined;
    const tap: FrameTap = (frame, payload) => {
      if (frame.type === type && source.running && resetting === undefined) {
        resetting = source.reset().then(() => source.type('b'));
      }
      return { frame, payload };
    };
    const link = memoryLink({ fromSource: tap });
    const there = await destination.vm();
    const incoming = receive(link.listener, { prepare: () => there });
    const near = await source.vm();
    // The vCPU is stopped right after it has reset the port.
    const migration = migrate(
      {
        ...near,
        pause: async (signal) => {
          await resetting;
          await near.pause(signal);
        },
      },
      link.connector,
    );
    await migration.result;
    await incoming.result;
    expect(resetting).toBeDefined();
    expect([destination.migratable.migration.state(), destination.answer()]).toEqual(['RUNNING', 'ab']);
  },
);

test('two devices move together, their states at the same time', async () => {
  const [first, second] = [mtty(true, 'first'), mtty(true, 'second')];
  const [there, beside] = [mtty(false, 'first'), mtty(false, 'second')];
  first.type('one');
  second.type('two');
  const link = memoryLink();
  const near = new VfioDeviceSet([first.migratable, second.migratable]);
  const far = new VfioDeviceSet([there.migratable, beside.migratable]);
  // One VM with the devices of both, and the memory of the first.
  const plain = await first.vm();
  const target = await there.vm();
  const incoming = receive(link.listener, { prepare: () => far.attachTo({ ...target, devices: [] }) });
  const migration = migrate(near.attachTo({ ...plain, devices: [] }), link.connector, { verify: true });
  await migration.result;
  await incoming.result;
  expect([there.answer(), beside.answer()]).toEqual(['one', 'two']);
  expect([first, second].map(({ migratable }) => migratable.migration.state())).toEqual(['STOP', 'STOP']);
});

test('a port that nobody watches: what it could have written moves when it is stopped', async () => {
  const source = mtty(true);
  const destination = mtty(false);
  source.type('unseen');
  const pages = source.memory.blocks[0]?.view(0, 2 ** 20) as Uint8Array;
  const near = await source.vm(false);
  expect(near.trackers.map(({ name }) => name)).toEqual([`vfio-stopped ${source.device.name}`]);
  const there = await destination.vm();
  const link = memoryLink();
  const incoming = receive(link.listener, { prepare: () => there });
  const migration = migrate(
    {
      ...near,
      // No tracker sees this write: it is the device's last write before it stops.
      pause: async (signal) => {
        pages.fill(0x5a, 4096, 8192);
        await near.pause(signal);
      },
    },
    link.connector,
    { downtimeLimitMs: 10_000 },
  );
  const events: MigrationEvent[] = [];
  migration.subscribe((event) => events.push(event));
  await migration.result;
  await incoming.result;
  expect(destination.memory.blocks[0]?.view(4096, 4096)).toEqual(new Uint8Array(4096).fill(0x5a));
  expect(destination.answer()).toBe('unseen');
  const rounds = events.flatMap((event) => (event.type === 'round' ? [event.round] : []));
  // All 256 pages are dirty once the device has stopped, and none before.
  expect(rounds.at(-1)?.dirtyPages).toBe(256);
  expect(rounds[0]?.newlyDirtyPages).toBe(0);
});
