import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DirtyBitmaps, type GuestMemory } from '@godwit/core';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { BalloonDevice } from '../../dist/virtio/balloon-device.js';
import { BlockDevice } from '../../dist/virtio/block-device.js';
import { ConsoleDevice } from '../../dist/virtio/console-device.js';
import { DiskFile } from '../../dist/virtio/disk-file.js';
import { NetDevice } from '../../dist/virtio/net-device.js';
import { RngDevice } from '../../dist/virtio/rng-device.js';
import type { VirtioDevice } from '../../dist/virtio/virtio-device.js';
import { DeviceStatus } from '../../dist/virtio/virtio-numbers.js';
import { MadeDevice, MEMORY_BYTES } from './made-device.js';

/** Every device, with a driver that fills its queues with whatever it likes: chains that are in order, requests that are not. */

const DISK_BYTES = 64 * 512;
let path: string;
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'virtio-hostile-'));
  path = join(folder, 'disk');
  writeFileSync(path, new Uint8Array(DISK_BYTES));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const LAYOUT = { pageSize: 4096, blocks: [{ byteLength: MEMORY_BYTES }] } as unknown as GuestMemory;
const link = { open: () => {}, send: () => {}, close: async () => {} };
const DEVICES: readonly { readonly name: string; make(): Promise<VirtioDevice> }[] = [
  { name: 'rng', make: async () => new RngDevice() },
  { name: 'block', make: async () => new BlockDevice(await DiskFile.open(path), 'disk') },
  { name: 'console', make: async () => typedAt() },
  { name: 'balloon', make: async () => askingBalloon() },
  { name: 'net', make: async () => new NetDevice(new Uint8Array(6), link) },
];

function typedAt(): ConsoleDevice {
  const device = new ConsoleDevice();
  device.typeIn(new Uint8Array(10_000));
  return device;
}

/** A balloon that asks its guest for free pages. */
function askingBalloon(): BalloonDevice {
  const device = new BalloonDevice();
  const start = device.start.bind(device);
  let asked = false;
  device.start = () => {
    start();
    if (asked) return;
    asked = true;
    // Once the driver is there.
    setImmediate(() => void device.collect(new DirtyBitmaps(LAYOUT), new AbortController().signal));
  };
  return device;
}

/** A header of a disk's request, often one that makes sense, and other bytes. */
const bytes = fc.oneof(
  fc.uint8Array({ minLength: 1, maxLength: 3000 }),
  fc
    .tuple(fc.constantFrom(0, 1, 4, 8, 9, 0x8000_0000), fc.constantFrom(0n, 1n, 63n, 64n, 2n ** 55n, 2n ** 63n))
    .map(([type, sector]) => {
      const view = new DataView(new ArrayBuffer(16));
      view.setUint32(0, type, true);
      view.setBigUint64(8, sector, true);
      return new Uint8Array(view.buffer);
    }),
);
const outs = fc.array(fc.record({ out: bytes }), { maxLength: 3 });
const rooms = fc.array(
  fc.record({ room: fc.oneof(fc.constantFrom(1, 512, 513, 1526), fc.integer({ min: 1, max: 9000 })) }),
  {
    maxLength: 3,
  },
);
const chain = fc.tuple(outs, rooms).filter(([out, room]) => out.length + room.length > 0);

describe.each(DEVICES)('$name', ({ make }) => {
  test('whatever is asked for: no chain comes back twice, a device that breaks says so, and nothing else is written', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(fc.nat(4), chain), { minLength: 1, maxLength: 8 }), async (requests) => {
        const one = MadeDevice.running(await make());
        try {
          const heads = one.driver.queues.map(() => [] as number[]);
          // Nothing is in this part of memory, and no request names it.
          const beyond = one.view(MEMORY_BYTES / 2, MEMORY_BYTES / 2);
          for (const [queue, [out, room]] of requests) {
            const index = queue % one.driver.queues.length;
            heads[index]?.push(one.driver.queues[index]?.add([...out, ...room]) ?? 0);
          }
          for (const queue of one.driver.queues) queue.kick();
          await new Promise(setImmediate);
          await one.transport.stop();
          const isBroken = (one.driver.status & DeviceStatus.needsReset) !== 0;
          expect(one.broken).toHaveLength(isBroken ? 1 : 0);
          expect(one.broken.join()).not.toContain('the device failed');
          one.driver.queues.forEach((queue, i) => {
            const used = queue.takeUsed();
            const order = used.map(({ head }) => head);
            expect(new Set(order).size).toBe(order.length);
            expect(order.every((head) => heads[i]?.includes(head))).toBe(true);
            for (const { head, written } of used) {
              const room = queue.roomOf(head).reduce((sum, { byteLength }) => sum + byteLength, 0);
              expect(written.byteLength).toBeLessThanOrEqual(room);
            }
          });
          expect(Buffer.from(beyond).equals(Buffer.alloc(beyond.byteLength))).toBe(true);
        } finally {
          await one.close();
        }
      }),
      { numRuns: 50 },
    );
  });
});
