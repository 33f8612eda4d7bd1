import { createGuestMemory } from '@godwit/linux';
import { afterAll, expect, test } from '@jest/globals';
import { SharedBoard } from '../../dist/vcpu/shared-board.js';
import { DeviceMemory } from '../../dist/virtio/device-memory.js';
import { MmioWindow } from '../../dist/virtio/mmio-window.js';
import { VirtioBus } from '../../dist/virtio/virtio-bus.js';
import { MmioRegister } from '../../dist/virtio/virtio-numbers.js';
import { VirtioWords } from '../../dist/virtio/virtio-words.js';
import { FakeDriver } from './fake-driver.js';
import { ToyDevice } from './toy-device.js';

/** Both sides of the registers, on one thread: what the vCPU's asks, the main thread's answers. */

const SLOT_0 = 0xd000_0000;
const SLOT_1 = 0xd000_1000;
const memory = createGuestMemory({ blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 2 ** 24 }] });
afterAll(() => memory.close());

function made() {
  const words = new VirtioWords(new SharedBoard().virtio);
  const levels: (readonly [irq: number, high: boolean])[] = [];
  const setIrqLine = (irq: number, high: boolean) => {
    levels.push([irq, high]);
  };
  const devices = [new ToyDevice(), new ToyDevice()];
  const bus = new VirtioBus(devices, {
    words,
    memory: new DeviceMemory(memory, undefined),
    setIrqLine,
    onNeedsReset: () => {},
  });
  let notifications = 0;
  let answers = true;
  const window = new MmioWindow({
    ...{ words, vcpu: 3, devices: 2, setIrqLine },
    call: () => answers && bus.answer(3),
    notify: () => {
      notifications++;
    },
    gaveUp: () => !answers,
  });
  const read = (address: number, size = 4): number => {
    const data = new Uint8Array(size);
    expect(window.access(address, data, false)).toBe(true);
    return data.reduceRight((value, byte) => value * 256 + byte, 0);
  };
  const write = (address: number, value: number, size = 4): void => {
    const data = Uint8Array.from({ length: size }, (_, i) => value >>> (8 * i));
    expect(window.access(address, data, true)).toBe(true);
  };
  return {
    ...{ bus, window, levels, read, write },
    notifications: () => notifications,
    stopAnswering: () => {
      answers = false;
    },
  };
}

test('registers are read and written in the slot of each device, also by 1, 2 and 8 bytes', () => {
  const { read, write } = made();
  expect(read(SLOT_0 + MmioRegister.magic)).toBe(0x7472_6976);
  expect(read(SLOT_1 + MmioRegister.magic, 8)).toBe(2 * 2 ** 32 + 0x7472_6976);
  write(SLOT_1 + MmioRegister.config, 0x99, 1);
  expect(read(SLOT_1 + MmioRegister.config, 2)).toBe(0x0299);
  expect(read(SLOT_0 + MmioRegister.config, 2)).toBe(0x0201);
  expect(read(SLOT_0 + MmioRegister.magic, 3)).toBe(0);
  write(SLOT_0 + MmioRegister.status, 1);
  expect([read(SLOT_0 + MmioRegister.status), read(SLOT_1 + MmioRegister.status)]).toEqual([1, 0]);
});

test('outside the slots there is nothing', () => {
  const { window } = made();
  for (const address of [SLOT_0 - 1, SLOT_1 + 0x1000, 0xfee0_0000, 0]) {
    expect(window.access(address, new Uint8Array(4), false)).toBe(false);
  }
});

test('however often a queue is notified, the main thread is told once until it looks; then the queue is served', async () => {
  const { bus, read, write, levels, notifications } = made();
  bus.start();
  const registers = {
    read: (offset: number, size: number) => read(SLOT_0 + offset, size),
    write: (offset: number, size: number, value: number) => write(SLOT_0 + offset, value, size),
  };
  const view = (address: number, byteLength: number) =>
    (memory.blocks[0] as (typeof memory.blocks)[0]).view(address, byteLength);
  const driver = new FakeDriver(registers, view, { base: 0x10_0000, queues: 1 });
  driver.initialize();
  const queue = driver.queues[0];
  queue?.add([{ out: Uint8Array.of(1) }, { room: 1 }]);
  for (let i = 0; i < 1000; i++) queue?.kick();
  write(SLOT_0 + MmioRegister.queueNotify, 31);
  write(SLOT_0 + MmioRegister.queueNotify, 0xffff_ffff);
  expect(notifications()).toBe(1);
  levels.length = 0;
  bus.notified();
  while (levels.length === 0) await new Promise(setImmediate);
  expect(queue?.takeUsed()[0]?.written).toEqual(Uint8Array.of(2));
  expect(levels).toEqual([[16, true]]);
  expect(read(SLOT_0 + MmioRegister.interruptStatus)).toBe(1);
  write(SLOT_0 + MmioRegister.interruptAcknowledge, 1);
  expect(levels).toEqual([
    [16, true],
    [16, false],
  ]);
  queue?.kick();
  expect(notifications()).toBe(2);
  await bus.close();
});

test('a vCPU whose thread is told to end waits for no answer', () => {
  const { read, stopAnswering } = made();
  stopAnswering();
  expect(read(SLOT_0 + MmioRegister.magic)).toBe(0);
});
