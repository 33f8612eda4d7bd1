import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Machine } from '@godwit/example-node-vmm';
import { afterAll, afterEach, beforeAll, expect } from '@jest/globals';
import { parseVirtio } from '../../dist/virtio/virtio-description.js';
import { DeviceStatus } from '../../dist/virtio/virtio-numbers.js';
import { moveGuest } from '../cold-migration.js';
import { toyKernel } from '../linux/toy-kernel.js';
import { NO_KVM, SOFTWARE, testUnless } from '../machine-kinds.js';
import { FakeDriver, type FakeQueue } from './fake-driver.js';

/** Virtio devices in a machine on KVM, whose guest carries out a list of register accesses that the test has written. */

const testKvm = testUnless(NO_KVM);
const MEMORY_BYTES = 32 * 2 ** 20;
const SECTOR = 512;
const DISK_BYTES = 64 * SECTOR;
const SLOT_0 = 0xd000_0000;
const LIST = 0x20_0000;
const QUEUES = 0x80_0000;
/** In the page tables that a Linux is entered with: see `writeIdentityMap`. */
const DIRECTORY_POINTERS = 0x2_1000;
const DIRECTORY = 0x2_3000;

/**
 * Carries out the list: pairs of an address and a value. With address 0 the list ends; with address 1 the value is an address of 16 bits,
 * and the guest waits until that is not 0, and prints "u". It writes to other addresses. It prints "." at the end, and halts.
 *
 * mov esi, LIST; next: mov edi, [rsi]; mov eax, [rsi+4]; add esi, 8; cmp edi, 1; jb end; je wait; mov [rdi], eax; jmp next;
 * wait: cmp word [rax], 0; je wait; mov al, 'u'; mov edx, 0x3f8; out dx, al; jmp next; end: mov al, '.'; mov edx, 0x3f8; out dx, al; hlt
 */
const CARRIES_OUT = [
  ...[0xbe, 0x00, 0x00, 0x20, 0x00],
  ...[0x8b, 0x3e, 0x8b, 0x46, 0x04, 0x83, 0xc6, 0x08, 0x83, 0xff, 0x01, 0x72, 0x16, 0x74, 0x04, 0x89, 0x07, 0xeb, 0xed],
  ...[0x66, 0x83, 0x38, 0x00, 0x74, 0xfa, 0xb0, 0x75, 0xba, 0xf8, 0x03, 0x00, 0x00, 0xee, 0xeb, 0xdd],
  ...[0xb0, 0x2e, 0xba, 0xf8, 0x03, 0x00, 0x00, 0xee, 0xf4],
];

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
  const machine = kept(
    await Machine.create({
      memoryBytes: MEMORY_BYTES,
      vcpus: 1,
      linux: { kernel: toyKernel(CARRIES_OUT) },
      virtio: { rng: true, disk: { path: disk } },
    }),
  );
  // The guest's page tables end with its RAM: a page directory for the fourth gibibyte maps the registers' 2 MiB to themselves.
  setEntry(machine, DIRECTORY_POINTERS + 3 * 8, DIRECTORY | 0x23);
  setEntry(machine, DIRECTORY + ((SLOT_0 >>> 21) & 511) * 8, SLOT_0 + 0xe3);
  return machine;
}

function setEntry(machine: Machine, address: number, value: number): void {
  const bytes = machine.ram.view(address, 8);
  new DataView(bytes.buffer, bytes.byteOffset).setBigUint64(0, BigInt(value), true);
}

/** The list of a machine's guest, and a driver of the disk whose register writes go into it. */
function listed(machine: Machine): {
  readonly driver: FakeDriver;
  readonly queue: FakeQueue;
  waitFor(address: number): void;
} {
  let next = 0;
  const add = (address: number, value: number): void => {
    const bytes = machine.ram.view(LIST + 8 * next++, 8);
    new DataView(bytes.buffer, bytes.byteOffset).setUint32(0, address, true);
    new DataView(bytes.buffer, bytes.byteOffset).setUint32(4, value, true);
  };
  const registers = {
    // The test knows what the disk offers.
    read: () => 0,
    write: (offset: number, _size: number, value: number) => add(SLOT_0 + 0x1000 + offset, value),
  };
  const driver = new FakeDriver(registers, (address, length) => machine.ram.view(address, length), {
    base: QUEUES,
    queues: 1,
  });
  return { driver, queue: driver.queues[0] as FakeQueue, waitFor: (address) => add(1, address) };
}

/** Writes a driver's way to a disk that works. */
function initialize(driver: FakeDriver): void {
  const { acknowledge, driver: known, featuresOk, driverOk } = DeviceStatus;
  driver.status = 0;
  driver.status = acknowledge | known;
  driver.accept(1n << 32n);
  driver.status = acknowledge | known | featuresOk;
  for (const queue of driver.queues) queue.setUp();
  driver.status = acknowledge | known | featuresOk | driverOk;
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
  const { driver, queue, waitFor } = listed(source);
  initialize(driver);
  const head = queue.add(readAll);
  queue.kick();
  waitFor(queue.usedRing + 2);
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
  const { driver, queue } = listed(machine);
  initialize(driver);
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
