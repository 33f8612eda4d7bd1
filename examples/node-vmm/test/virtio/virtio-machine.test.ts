import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Machine } from '@godwit/example-node-vmm';
import { afterAll, afterEach, beforeAll, expect } from '@jest/globals';
import { parseVirtio } from '../../dist/virtio/virtio-description.js';
import { moveGuest } from '../cold-migration.js';
import { NO_KVM, SOFTWARE, testUnless } from '../machine-kinds.js';
import type { FakeQueue } from './fake-driver.js';
import { ListGuest } from './list-guest.js';

/** Virtio devices in a machine on KVM, whose guest carries out a list of register accesses that the test has written. */

const testKvm = testUnless(NO_KVM);
const MEMORY_BYTES = 32 * 2 ** 20;
const SECTOR = 512;
const DISK_BYTES = 64 * SECTOR;
const QUEUES = 0x80_0000;

let folder: string;
let disk: string;
const machines: Machine[] = [];
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'virtio-machine-'));
  disk = join(folder, 'disk');
  writeFileSync(
    disk,
    Uint8Array.from({ length: DISK_BYTES }, (_, i) => 1 + (i % 251)),
  );
});
afterEach(async () => {
  await Promise.all(machines.splice(0).map((machine) => machine.close()));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function kept(machine: Machine): Machine {
  machines.push(machine);
  return machine;
}

async function withDisk(): Promise<Machine> {
  return kept(
    await Machine.create({
      memoryBytes: MEMORY_BYTES,
      vcpus: 1,
      linux: { kernel: ListGuest.kernel },
      virtio: { rng: true, disk: { path: disk } },
    }),
  );
}

/** The guest of a machine, and the queue of its disk. */
function listed(machine: Machine): { readonly guest: ListGuest; readonly queue: FakeQueue } {
  const guest = new ListGuest(machine, { slot: 1, queues: 1 });
  return { guest, queue: guest.queue(0) };
}

/** Resolves when the guest has printed so much. */
function printed(machine: Machine, text: string): Promise<void> {
  let all = '';
  return new Promise((resolve) => {
    machine.console.subscribe((piece) => {
      all += piece;
      if (all.endsWith(text)) resolve();
    });
  });
}

const readAll = [{ out: new Uint8Array(16) }, { room: DISK_BYTES }, { room: 1 }];

testKvm('a guest reads its disk, is moved, and reads again with the same queue', async () => {
  const source = await withDisk();
  const { guest, queue } = listed(source);
  guest.initialize(1n << 32n);
  const head = queue.add(readAll);
  queue.kick();
  guest.waitFor(queue.usedRing + 2);
  const isRead = printed(source, 'u.');
  await source.resume();
  await isRead;
  await source.pause();
  const room = queue.roomOf(head)[0]?.address ?? 0;
  expect(Buffer.from(source.ram.view(room, DISK_BYTES)).subarray(0, 3)).toEqual(Buffer.from([1, 2, 3]));
  expect(source.trackers.map(({ name }) => name)).toEqual(['kvm', 'virtio']);
  expect(source.devices.map(({ id }) => id).slice(-2)).toEqual(['virtio-rng', 'virtio-block']);
  expect(source.description.virtio).toEqual([
    { type: 'rng' },
    { type: 'block', byteLength: DISK_BYTES, readonly: false },
  ]);

  const next = kept(
    await Machine.fromDescription(JSON.parse(JSON.stringify(source.description)), { disk: { path: disk } }),
  );
  await moveGuest(source, next);
  // The available ring has one chain more when the destination starts: the device there takes it from the queue that came.
  queue.describe(32, QUEUES + 0x4000, 16, 1, 33);
  queue.describe(33, QUEUES + 0x3_0000, DISK_BYTES, 3, 34);
  queue.describe(34, QUEUES + 0x4_0000, 1, 2, 0);
  queue.offer(32);
  for (const part of [0, 1]) {
    const page = QUEUES + part * 0x1000;
    next.ram.view(page, 0x1000).set(source.ram.view(page, 0x1000));
  }
  const completed = new Promise<void>((resolve) => {
    next.events.subscribe(({ type }) => type === 'paused' && resolve());
  });
  await next.resume();
  await next.pause();
  await completed;
  expect(Buffer.from(next.ram.view(queue.usedRing + 2, 1))).toEqual(Buffer.from([2]));
  expect(Buffer.from(next.ram.view(QUEUES + 0x3_0000, 3))).toEqual(Buffer.from([1, 2, 3]));
});

testKvm('a guest that breaks its disk is told of, and goes on', async () => {
  const machine = await withDisk();
  const { guest, queue } = listed(machine);
  guest.initialize(1n << 32n);
  queue.offer(99);
  queue.kick();
  const broken = new Promise<string>((resolve) => {
    machine.events.subscribe((event) => event.type === 'needs-reset' && resolve(`${event.device}: ${event.reason}`));
  });
  const ended = printed(machine, '.');
  await machine.resume();
  await ended;
  expect(await broken).toBe('virtio-block: there is no descriptor 99 in a queue of 64');
  expect(machine.state).toBe('running');
});

testKvm('a disk that is in use by another VMM is refused when the machine is to run', async () => {
  const first = await withDisk();
  const second = await withDisk();
  await first.resume();
  await expect(second.resume()).rejects.toMatchObject({ code: 'GODWIT_DEVICE_BUSY' });
  await first.pause();
  await second.resume();
});

testKvm('the destination refuses a guest whose disk is not there, or another one', async () => {
  const description = {
    ...{ kind: 'kvm', memoryBytes: MEMORY_BYTES, vcpus: 1, boot: 'linux' },
    virtio: [{ type: 'block', byteLength: DISK_BYTES, readonly: false }],
  };
  const other = join(folder, 'other');
  writeFileSync(other, '');
  truncateSync(other, 2 * DISK_BYTES);
  for (const [given, told] of [
    [undefined, '--disk FILE'],
    [{ path: join(folder, 'nowhere') }, 'create it'],
    [{ path: other }, `has ${DISK_BYTES} bytes`],
    [{ path: disk, readonly: true }, 'leave out "readonly"'],
  ] as const) {
    await expect(
      Machine.fromDescription(description, given === undefined ? {} : { disk: given }),
    ).rejects.toMatchObject({
      code: 'GODWIT_UNSUPPORTED',
      message: expect.stringContaining(told),
    });
  }
  const { virtio: _, ...without } = description;
  await expect(Machine.fromDescription(without, { disk: { path: disk } })).rejects.toMatchObject({
    message: expect.stringContaining('the guest has no disk'),
  });
});

SOFTWARE.test('a description of virtio devices is checked', async () => {
  const disk = { type: 'block', byteLength: 512, readonly: true };
  expect(parseVirtio(undefined)).toEqual([]);
  expect(parseVirtio([{ type: 'rng' }, { ...disk, extra: 1 }])).toEqual([{ type: 'rng' }, disk]);
  for (const wrong of [{}, 'rng', [null], [{ type: 'gpu' }], [{ type: 'block' }], [{ type: 'rng' }, { type: 'rng' }]]) {
    expect(() => parseVirtio(wrong)).toThrow(expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT' }));
  }
});
