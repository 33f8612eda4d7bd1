import { afterEach, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { DeviceStatus, MmioRegister } from '../../dist/virtio/virtio-numbers.js';
import type { FakeQueue } from './fake-driver.js';
import { MadeDevice, MEMORY_BYTES } from './made-device.js';
import { ToyDevice } from './toy-device.js';

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;
const made: MadeDevice[] = [];
afterEach(() => Promise.all(made.splice(0).map((one) => one.close())));

function running(): { one: MadeDevice; queue: FakeQueue } {
  const one = MadeDevice.running(new ToyDevice());
  made.push(one);
  return { one, queue: one.driver.queues[0] as FakeQueue };
}

/** The reason why the device needs a reset after a kick. */
async function reason(one: MadeDevice, queue: FakeQueue): Promise<string> {
  const broken = one.changed();
  queue.kick();
  await broken;
  expect(one.driver.status & DeviceStatus.needsReset).not.toBe(0);
  expect(queue.takeUsed()).toEqual([]);
  return one.broken.join();
}

test.each<[name: string, spoil: (queue: FakeQueue) => void, told: string]>([
  ['a head beyond the table', (queue) => queue.offer(64), 'no descriptor 64'],
  [
    'a next descriptor beyond the table',
    (queue) => {
      queue.describe(0, 0x20_0000, 1, NEXT, 999);
      queue.offer(0);
    },
    'no descriptor 999',
  ],
  [
    'a chain that leads to itself',
    (queue) => {
      queue.describe(0, 0x20_0000, 1, NEXT, 1);
      queue.describe(1, 0x20_0000, 1, NEXT, 0);
      queue.offer(0);
    },
    'a loop',
  ],
  [
    'an address beyond RAM',
    (queue) => {
      queue.describe(0, MEMORY_BYTES - 1, 2, 0, 0);
      queue.offer(0);
    },
    'not RAM',
  ],
  [
    'an address that wraps',
    (queue) => {
      queue.describe(0, 2n ** 64n - 1n, 2, 0, 0);
      queue.offer(0);
    },
    'not RAM',
  ],
  [
    'a chain of too many bytes',
    (queue) => {
      queue.describe(0, 0, 2 ** 20, NEXT, 1);
      queue.describe(1, 0, 1, 0, 0);
      queue.offer(0);
    },
    'more than 1048576 bytes',
  ],
  [
    'an indirect descriptor',
    (queue) => {
      queue.describe(0, 0x20_0000, 16, INDIRECT, 0);
      queue.offer(0);
    },
    'not negotiated',
  ],
  [
    'a buffer to read behind one to write',
    (queue) => {
      queue.describe(0, 0x20_0000, 16, NEXT | WRITE, 1);
      queue.describe(1, 0x20_0000, 16, 0, 0);
      queue.offer(0);
    },
    'behind one that is to be written',
  ],
  ['an index that jumps', (queue) => queue.setAvailable(65), '65 chains'],
])('%s', async (_, spoil, told) => {
  const { one, queue } = running();
  spoil(queue);
  expect(await reason(one, queue)).toContain(told);
});

test.each([
  ['a size that is no power of two', MmioRegister.queueSize, 3, 'power of two'],
  ['a size of 0', MmioRegister.queueSize, 0, 'power of two'],
  ['more descriptors than are possible', MmioRegister.queueSize, 256, 'power of two'],
  ['a table beyond RAM', MmioRegister.queueDescriptorHigh, 1, 'descriptor table'],
  ['a table that is not aligned', MmioRegister.queueDescriptorLow, 0x10_0008, 'multiple of 16'],
  ['a driver area that is not aligned', MmioRegister.queueDriverLow, 0x10_0001, 'driver area'],
  ['a device area at the end of RAM', MmioRegister.queueDeviceLow, MEMORY_BYTES - 4, 'device area'],
])('%s', async (_, register, value, told) => {
  const { one, queue } = running();
  one.transport.write(MmioRegister.queueSelect, 4, 0);
  one.transport.write(MmioRegister.queueReady, 4, 0);
  one.transport.write(register, 4, value);
  const broken = one.changed();
  one.transport.write(MmioRegister.queueReady, 4, 1);
  await broken;
  expect(one.broken.join()).toContain(told);
  queue.kick();
});

test('whatever is in the rings: the device goes on, or needs a reset, and works after one', async () => {
  const u16 = fc.oneof(fc.integer({ min: 0, max: 70 }), fc.integer({ min: 0, max: 0xffff }));
  const address = fc.oneof(
    fc.bigInt({ min: 0n, max: BigInt(MEMORY_BYTES + 4096) }),
    fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  );
  const byteLength = fc.oneof(fc.integer({ min: 0, max: 8192 }), fc.integer({ min: 0, max: 0xffff_ffff }));
  const descriptor = fc.tuple(u16, address, byteLength, fc.integer({ min: 0, max: 7 }), u16);
  const action = fc.oneof(
    fc.record({ heads: fc.array(u16, { maxLength: 5 }) }),
    fc.record({ jump: u16 }),
    fc.record({ register: fc.integer({ min: 0, max: 0x110 }), value: fc.integer({ min: 0, max: 0xffff_ffff }) }),
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(descriptor, { maxLength: 20 }),
      fc.array(action, { maxLength: 12 }),
      async (all, acts) => {
        const one = MadeDevice.running(new ToyDevice());
        try {
          const queue = one.driver.queues[0] as FakeQueue;
          for (const [index, at, length, flags, next] of all) queue.describe(index % 64, at, length, flags, next);
          for (const act of acts) {
            if ('heads' in act) for (const head of act.heads) queue.offer(head);
            if ('jump' in act) queue.setAvailable(act.jump);
            if ('register' in act) one.transport.write(act.register, 4, act.value);
            queue.kick();
            await new Promise(setImmediate);
          }
          expect(one.broken.length > 0 ? one.broken.join() : 'goes on').not.toContain('the device failed');
          // A driver that resets the device has it again.
          one.driver.initialize();
          await one.transport.stop();
          one.transport.start();
          queue.setAvailable(0);
          const fresh = new MadeDevice(new ToyDevice(), one.memory);
          fresh.transport.start();
          fresh.driver.initialize();
          fresh.driver.queues[0]?.add([{ out: Uint8Array.of(1) }, { room: 1 }]);
          fresh.driver.queues[0]?.kick();
          expect((await fresh.used(1))[0]?.written).toEqual(Uint8Array.of(2));
          await fresh.transport.stop();
        } finally {
          await one.close();
        }
      },
    ),
  );
});

test('a million kicks', async () => {
  const { one, queue } = running();
  for (let i = 0; i < 1_000_000; i++) queue.kick();
  queue.add([{ out: Uint8Array.of(1) }, { room: 1 }]);
  queue.kick();
  expect((await one.used(1))[0]?.written).toEqual(Uint8Array.of(2));
});

test('a guest that never stops to offer chains leaves the event loop its turns', async () => {
  const { one, queue } = running();
  let turns = 0;
  let served = 0;
  const count = (): void => {
    if (++turns < 100) setImmediate(count);
  };
  setImmediate(count);
  // As another vCPU would, the driver adds a chain whenever one was used.
  const refill = (): void => {
    served += queue.takeUsed().length;
    one.transport.interrupt.acknowledge(1);
    if (turns < 100) queue.add([{ out: Uint8Array.of(1) }, { room: 1 }]);
  };
  const raise = one.transport.interrupt.raise.bind(one.transport.interrupt);
  one.transport.interrupt.raise = (bits) => {
    raise(bits);
    refill();
  };
  refill();
  queue.kick();
  while (turns < 100) await new Promise(setImmediate);
  expect(served).toBeGreaterThan(100);
});
