import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type MigratableVm, migrate, receive, SoftwareTracker } from '@godwit/core';
import { memoryLink } from '@godwit/core/testing';
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { BlockDevice } from '../../dist/virtio/block-device.js';
import { DiskFile } from '../../dist/virtio/disk-file.js';
import type { FakeQueue } from './fake-driver.js';
import { MadeDevice } from './made-device.js';

/** A disk that reads into the guest's memory while that moves. */

const SECTOR = 512;
const DISK_BYTES = 64 * SECTOR;
let path: string;
let folder: string;
const made: MadeDevice[] = [];

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'virtio-migration-'));
  path = join(folder, 'disk');
  writeFileSync(
    path,
    Uint8Array.from({ length: DISK_BYTES }, (_, i) => 1 + (i % 251)),
  );
});
afterEach(() => Promise.all(made.splice(0).map((one) => one.close())));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function withDisk(): Promise<MadeDevice> {
  const one = new MadeDevice(new BlockDevice(await DiskFile.open(path), 'disk'));
  made.push(one);
  return one;
}

/** A VM with one device. @param pausing is awaited first: what its guest does until it is paused */
function vmOf(one: MadeDevice, trackers: MigratableVm['trackers'], pausing?: () => Promise<void>): MigratableVm {
  return {
    memory: one.memory,
    trackers,
    devices: [one.state],
    pause: async () => {
      await pausing?.();
      await one.transport.stop();
    },
    resume: async () => one.transport.start(),
  };
}

/**
 * Moves a guest that reads its whole disk after round 1, when every page has been sent. What the guest itself writes is tracked.
 *
 * @param seesDevice whether what its disk writes is tracked too
 */
async function movedWhileReading(seesDevice: boolean) {
  const source = await withDisk();
  const next = await withDisk();
  source.transport.start();
  source.driver.initialize();
  const queue = source.driver.queues[0] as FakeQueue;
  const guest = new SoftwareTracker(source.memory, 'guest');
  let head = 0;
  const reads = async (): Promise<void> => {
    head = queue.add([{ out: new Uint8Array(16) }, { room: DISK_BYTES }, { room: 1 }]);
    // The descriptors and the available ring.
    guest.mark(0, queue.base, queue.usedRing - queue.base);
    queue.kick();
    await source.used(1);
  };
  const link = memoryLink();
  const incoming = receive(link.listener, { prepare: async () => vmOf(next, [next.tracker]) });
  incoming.result.catch(() => {});
  const trackers = seesDevice ? [guest, source.tracker] : [guest];
  const migration = migrate(vmOf(source, trackers, reads), link.connector, { description: {}, verify: true });
  await migration.result;
  await incoming.result;
  const address = queue.roomOf(head)[0]?.address ?? 0;
  return { source, next, address };
}

test('what the disk writes into memory after round 1 arrives, and the disk changes hands', async () => {
  const { source, next, address } = await movedWhileReading(true);
  expect(next.view(address, 3)).toEqual(Uint8Array.of(1, 2, 3));
  expect(next.view(address, DISK_BYTES)).toEqual(source.view(address, DISK_BYTES));
  // The source gave its lock back at the pause, and the destination has it.
  expect(() => source.transport.start()).toThrow(expect.objectContaining({ code: 'GODWIT_DEVICE_BUSY' }));
  // There the queue goes on where it was: the next request is the second one.
  expect(next.transport.queues[0]?.registers).toMatchObject({ nextAvailable: 1, nextUsed: 1 });
});

test('without the marks of the device the move is found to have lost what it wrote', async () => {
  await expect(movedWhileReading(false)).rejects.toMatchObject({ code: 'GODWIT_VERIFY_FAILED' });
});
