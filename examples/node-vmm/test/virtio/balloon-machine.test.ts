import { type MigrationEvent, migrate, receive } from '@godwit/core';
import { memoryLink } from '@godwit/core/testing';
import { Machine } from '@godwit/example-node-vmm';
import { expect } from '@jest/globals';
import { BalloonFeature, HintCommand } from '../../dist/virtio/balloon-device.js';
import { DescriptorFlag } from '../../dist/virtio/virtio-numbers.js';
import { closedAfterEach } from '../kept-machines.js';
import { NO_KVM, testUnless } from '../machine-kinds.js';
import { ListGuest } from './list-guest.js';

const testKvm = testUnless(NO_KVM);
const MIB = 2 ** 20;
const MEMORY_BYTES = 512 * MIB;
const PAGE = 4096;
/** The guest's free memory: 100 blocks of 4 MiB, as Linux's allocator has them. */
const FREE = { address: 64 * MIB, blockBytes: 4 * MIB, blocks: 100 };
const isFree = (address: number) => address >= FREE.address && address < FREE.address + FREE.blocks * FREE.blockBytes;

const kept = closedAfterEach();

/** A word of each page from here on, which is in use or was: none is zero. Below it are the guest's program and its queues. */
const IN_USE = 18 * MIB;
const mark = (page: number) => (page * 2_654_435_761 + 1) >>> 0 || 1;

function fill(machine: Machine): void {
  for (let address = IN_USE; address < MEMORY_BYTES; address += MIB) {
    const bytes = machine.ram.view(address, MIB);
    const words = new Uint32Array(bytes.buffer, bytes.byteOffset, MIB / 4);
    for (let i = 0; i < words.length; i += PAGE / 4) words.fill(mark(address / PAGE + (i * 4) / PAGE), i, i + PAGE / 4);
  }
}

/** A machine of 512 MiB, all written, whose guest awaits the balloon's question and names 400 MiB as free. */
async function withBalloon(): Promise<Machine> {
  const machine = kept(
    await Machine.create({
      memoryBytes: MEMORY_BYTES,
      vcpus: 1,
      linux: { kernel: ListGuest.kernel },
      virtio: { balloon: true },
    }),
  );
  const guest = new ListGuest(machine, { slot: 0, queues: 5, queueSize: 128 });
  const features = Object.values(BalloonFeature).reduce((all, bit) => all | bit, 1n << 32n);
  guest.initialize(features & ~BalloonFeature.pagePoison);
  // The driver is there: this word is not 0.
  guest.waitFor(ListGuest.notZero);
  // The upper half of the command's number is not 0 once the guest is asked.
  guest.waitFor(guest.config(8) + 2);
  const hints = guest.queue(3);
  const tell = (index: number, command: number): void => {
    const address = hints.base + 0x3000 + 16 * index;
    new DataView(machine.ram.view(address, 4).buffer, machine.ram.view(address, 4).byteOffset).setUint32(
      0,
      command,
      true,
    );
    hints.describe(index, address, 4, 0, 0);
    hints.offer(index);
  };
  tell(0, HintCommand.first);
  for (let i = 0; i < FREE.blocks; i++) {
    hints.describe(1 + i, FREE.address + i * FREE.blockBytes, FREE.blockBytes, DescriptorFlag.write, 0);
    hints.offer(1 + i);
  }
  tell(1 + FREE.blocks, HintCommand.stop);
  // The guest itself makes them available, once it is asked: the flags of the ring, 0, and its index.
  hints.setAvailable(0);
  guest.write(hints.availableRing, (2 + FREE.blocks) << 16);
  hints.kick();
  fill(machine);
  const ready = new Promise<void>((resolve) => {
    machine.console.subscribe((text) => text.includes('u') && resolve());
  });
  await machine.resume();
  await ready;
  return machine;
}

async function moved(source: Machine, freePagesTimeoutMs: number) {
  const link = memoryLink();
  let next: Machine | undefined;
  const incoming = receive(link.listener, {
    prepare: async (description) => {
      next = kept(await Machine.fromDescription(description));
      return next;
    },
  });
  const migration = migrate(source, link.connector, {
    ...{ description: source.description, verify: true, freePagesTimeoutMs },
  });
  const events: MigrationEvent[] = [];
  migration.subscribe((event) => events.push(event));
  const summary = await migration.result;
  await incoming.result;
  if (next === undefined) throw new Error('nothing has arrived');
  return { summary, next, events };
}

testKvm('of 512 MiB, of which 400 are free, at most 130 MiB are sent', async () => {
  const source = await withBalloon();
  const { summary, next, events } = await moved(source, 20_000);
  const named = events.find((event) => event.type === 'free-pages');
  expect(named).toMatchObject({ name: 'virtio-balloon', pages: (400 * MIB) / PAGE, complete: true });
  expect(summary.wireBytes).toBeLessThanOrEqual(130 * MIB);
  // The rest is sent.
  expect(summary.wireBytes).toBeGreaterThanOrEqual(94 * MIB);
  expect(summary.verified).toBe(true);
  await next.pause();
  for (let address = IN_USE; address < MEMORY_BYTES; address += PAGE) {
    const bytes = next.ram.view(address, 4);
    const word = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
    if (word !== (isFree(address) ? 0 : mark(address / PAGE))) {
      throw new Error(`page at ${address} has ${word} at the destination`);
    }
  }
});

testKvm('a guest that is not asked is sent whole', async () => {
  const source = await withBalloon();
  const { summary, events } = await moved(source, 0);
  expect(events.filter(({ type }) => type === 'free-pages')).toEqual([]);
  expect(summary.wireBytes).toBeGreaterThanOrEqual(494 * MIB);
});
