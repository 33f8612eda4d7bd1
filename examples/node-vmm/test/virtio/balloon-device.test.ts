import { DirtyBitmaps, migrate, receive } from '@godwit/core';
import { memoryLink } from '@godwit/core/testing';
import { afterEach, describe, expect, test } from '@jest/globals';
import { BalloonDevice, BalloonFeature, HintCommand } from '../../dist/virtio/balloon-device.js';
import { DescriptorFlag, DeviceStatus, InterruptBit } from '../../dist/virtio/virtio-numbers.js';
import { inChunks, savedState } from '../cold-migration.js';
import type { FakeQueue } from './fake-driver.js';
import { MadeDevice, pageOf } from './made-device.js';

const PAGE = 4096;
const FREE = 0x100_0000;
const made: MadeDevice[] = [];
afterEach(() => Promise.all(made.splice(0).map((one) => one.close())));

const words = (...values: number[]) => new Uint8Array(Uint32Array.from(values).buffer);

interface Running {
  readonly one: MadeDevice;
  readonly device: BalloonDevice;
  readonly inflate: FakeQueue;
  readonly deflate: FakeQueue;
  readonly hints: FakeQueue;
  readonly reports: FakeQueue;
}

/** A balloon with a driver that has accepted what is offered, but for `without`. */
function running(without = BalloonFeature.pagePoison): Running {
  const device = new BalloonDevice();
  const one = new MadeDevice(device);
  made.push(one);
  one.transport.start();
  const { acknowledge, driver, featuresOk, driverOk } = DeviceStatus;
  one.driver.status = acknowledge | driver;
  one.driver.accept(one.driver.offered() & ~without);
  one.driver.status = acknowledge | driver | featuresOk;
  for (const queue of one.driver.queues) queue.setUp();
  one.driver.status = acknowledge | driver | featuresOk | driverOk;
  const [inflate, deflate, , hints, reports] = one.driver.queues as [
    FakeQueue,
    FakeQueue,
    FakeQueue,
    FakeQueue,
    FakeQueue,
  ];
  return { one, device, inflate, deflate, hints, reports };
}

const command = ({ one }: Running) => new DataView(one.driver.config(8, 4).buffer).getUint32(0, true);
const newBitmaps = ({ one }: Running) => new DirtyBitmaps(one.memory);

/** Makes a free block available, as a buffer that the device could write. */
function offerFree(queue: FakeQueue, index: number, address: number, byteLength: number): void {
  queue.describe(index, address, byteLength, DescriptorFlag.write, 0);
  queue.offer(index);
}

/** Answers what the balloon asks for: its command, the blocks, and the end. */
async function answer(
  guest: Running,
  blocks: readonly (readonly [number, number])[],
  id = command(guest),
): Promise<void> {
  const { hints, one } = guest;
  hints.describe(0, 0x20_0000, 4, 0, 0);
  one.view(0x20_0000, 4).set(words(id));
  hints.offer(0);
  for (const [i, [address, byteLength]] of blocks.entries()) offerFree(hints, 1 + i, address, byteLength);
  const last = 1 + blocks.length;
  hints.describe(last, 0x20_0010, 4, 0, 0);
  one.view(0x20_0010, 4).set(words(HintCommand.stop));
  hints.offer(last);
  hints.kick();
  await one.used(2 + blocks.length, 3);
}

/** Pages of a bitmap, as [first, count] of each run. */
const runs = (pages: DirtyBitmaps) => {
  const all: number[][] = [];
  for (let page = pages.at(0).nextDirty(0); page >= 0; ) {
    const end = pages.at(0).nextClean(page);
    all.push([page, end - page]);
    page = end < pages.at(0).pageCount ? pages.at(0).nextDirty(end) : -1;
  }
  return all;
};

describe('free page hints', () => {
  test('a guest that is asked names its free pages, and gets them back at the end', async () => {
    const guest = running();
    expect(command(guest)).toBe(HintCommand.done);
    const named = newBitmaps(guest);
    const collecting = guest.device.collect(named, new AbortController().signal);
    expect(command(guest)).toBe(HintCommand.first);
    expect(guest.one.transport.interrupt.status & InterruptBit.configuration).not.toBe(0);
    const generation = guest.one.transport.read(0xfc, 4);
    // One block whose ends are in the middle of pages: only whole pages are free.
    await answer(guest, [
      [FREE, 8 * PAGE],
      [FREE + 20 * PAGE + 100, 2 * PAGE],
    ]);
    await collecting;
    expect(runs(named)).toEqual([
      [FREE / PAGE, 8],
      [FREE / PAGE + 21, 1],
    ]);
    expect(command(guest)).toBe(HintCommand.done);
    expect(guest.one.transport.read(0xfc, 4)).toBeGreaterThan(generation);
    // The next time is another command.
    const again = new AbortController();
    const next = guest.device.collect(named, again.signal);
    expect(command(guest)).toBe(HintCommand.first + 1);
    again.abort();
    await next;
  });

  test('what is an answer to an earlier question does not count', async () => {
    const guest = running();
    const first = new AbortController();
    const given = guest.device.collect(newBitmaps(guest), first.signal);
    first.abort();
    await given;
    const named = newBitmaps(guest);
    const enough = new AbortController();
    const collecting = guest.device.collect(named, enough.signal);
    offerFree(guest.hints, 10, FREE + 100 * PAGE, PAGE);
    guest.hints.kick();
    await guest.one.used(1, 3);
    await answer(guest, [[FREE, PAGE]], HintCommand.first);
    enough.abort();
    await collecting;
    expect(runs(named)).toEqual([]);
    // Nor does what comes when nobody has asked.
    await answer(guest, [[FREE, PAGE]]);
    expect(runs(named)).toEqual([]);
  });

  test.each([
    ['without the feature', BalloonFeature.freePageHint | BalloonFeature.pagePoison],
    ['that poisons its free pages, or zeroes them', 0n],
  ])('a guest %s is not asked', async (_, without) => {
    const guest = running(without);
    const named = newBitmaps(guest);
    await guest.device.collect(named, new AbortController().signal);
    expect([command(guest), runs(named)]).toEqual([HintCommand.done, []]);
  });

  test('a guest without a driver, or one that is paused, is not asked', async () => {
    const device = new BalloonDevice();
    const one = new MadeDevice(device);
    made.push(one);
    one.transport.start();
    await device.collect(new DirtyBitmaps(one.memory), new AbortController().signal);
    const guest = running();
    await guest.one.transport.stop();
    await guest.device.collect(newBitmaps(guest), new AbortController().signal);
    guest.one.transport.start();
    expect(command(guest)).toBe(HintCommand.done);
  });

  test('a driver that resets the balloon ends the question', async () => {
    const guest = running();
    const collecting = guest.device.collect(newBitmaps(guest), new AbortController().signal);
    guest.one.driver.status = 0;
    await collecting;
  });

  test('a guest that was asked at its source gets its pages back where it runs', async () => {
    const guest = running();
    const enough = new AbortController();
    const collecting = guest.device.collect(newBitmaps(guest), enough.signal);
    await guest.one.transport.stop();
    const state = await savedState(guest.one.state);
    enough.abort();
    await collecting;
    const next = new MadeDevice(new BalloonDevice(), guest.one.memory);
    await next.state.load(inChunks(state), 1);
    const view = new DataView(next.driver.config(8, 4).buffer);
    expect(view.getUint32(0, true)).toBe(HintCommand.first);
    next.transport.start();
    expect(new DataView(next.driver.config(8, 4).buffer).getUint32(0, true)).toBe(HintCommand.done);
    expect(next.transport.interrupt.status & InterruptBit.configuration).not.toBe(0);
    await next.transport.stop();
  });
});

describe('pages for the host', () => {
  test('what is put into the balloon is given back, is marked, and can be taken out again', async () => {
    const guest = running();
    const { one, inflate, deflate } = guest;
    one.view(FREE, 4 * PAGE).fill(7);
    await one.tracker.start();
    const before = one.memory.allocatedBytes();
    inflate.add([{ out: words(...[0, 1, 2].map((i) => pageOf(FREE) + i), 0xffff_ffff) }]);
    inflate.kick();
    await one.used(1);
    expect(one.memory.allocatedBytes()).toBeLessThan(before);
    expect(one.view(FREE, 1)[0]).toBe(0);
    expect(one.view(FREE + 3 * PAGE, 1)[0]).toBe(7);
    expect(await one.marked()).toEqual(expect.arrayContaining([0, 1, 2].map((i) => pageOf(FREE) + i)));
    await one.tracker.stop();
    deflate.add([{ out: words(pageOf(FREE)) }]);
    deflate.kick();
    await one.used(1, 1);
    one.transport.write(0x100 + 4, 4, 2);
    expect(guest.device.heldBytes).toBe(2 * PAGE);
    guest.device.targetBytes = 8 * PAGE;
    expect(new DataView(one.driver.config(0, 4).buffer).getUint32(0, true)).toBe(8);
  });

  test('what is reported as free is given back, but not of a guest that counts on what is there', async () => {
    for (const [without, left] of [
      [BalloonFeature.pagePoison, 0],
      [0n, 9],
    ] as const) {
      const { one, reports } = running(without);
      one.view(FREE, 2 * PAGE).fill(9);
      offerFree(reports, 0, FREE, 2 * PAGE);
      reports.kick();
      await one.used(1, 4);
      expect(one.view(FREE, 1)[0]).toBe(left);
    }
  });

  test('while the memory is being moved nothing is given back; what is still in the balloon is later', async () => {
    const guest = running();
    const { one, inflate, deflate, reports } = guest;
    one.view(FREE, 8 * PAGE).fill(7);
    const link = memoryLink();
    const idle = { devices: [], pause: async () => {}, resume: async () => {} };
    const migration = migrate({ ...idle, memory: one.memory, trackers: [one.tracker] }, link.connector, {
      pauseBeforeSwitchover: true,
    });
    const held = new Promise<void>((resolve) => {
      migration.subscribe((event) => event.type === 'state' && event.state === 'pre-switchover' && resolve());
    });
    const target = new MadeDevice(new BalloonDevice());
    made.push(target);
    const incoming = receive(link.listener, {
      prepare: () => ({ ...idle, memory: target.memory, trackers: [] }),
    });
    await held;
    inflate.add([{ out: words(pageOf(FREE), pageOf(FREE) + 1) }]);
    offerFree(reports, 0, FREE + 4 * PAGE, PAGE);
    inflate.kick();
    reports.kick();
    await one.used(1);
    await one.used(1, 4);
    expect([0, 1, 4].map((i) => one.view(FREE + i * PAGE, 1)[0])).toEqual([7, 7, 7]);
    // The guest takes one out and uses it.
    deflate.add([{ out: words(pageOf(FREE)) }]);
    deflate.kick();
    await one.used(1, 1);
    migration.cancel();
    await expect(migration.result).rejects.toMatchObject({ code: 'GODWIT_CANCELLED' });
    await expect(incoming.result).rejects.toMatchObject({});
    inflate.add([{ out: words(pageOf(FREE) + 7) }]);
    inflate.kick();
    await one.used(1);
    expect([0, 1, 7].map((i) => one.view(FREE + i * PAGE, 1)[0])).toEqual([7, 0, 0]);
  });

  test.each([
    ['half a number', 0, [{ out: new Uint8Array(6) }], '4 bytes each'],
    ['half a command', 3, [{ out: new Uint8Array(2) }], 'has 4 bytes'],
  ] as const)('%s breaks the device', async (_, queue, buffers, told) => {
    const { one } = running();
    one.driver.queues[queue]?.add(buffers);
    const broken = one.changed();
    one.driver.queues[queue]?.kick();
    await broken;
    expect(one.broken.join()).toContain(told);
  });
});

test('the buffer for statistics stays in its queue', async () => {
  const { one } = running();
  const statistics = one.driver.queues[2];
  statistics?.add([{ out: new Uint8Array(10) }]);
  statistics?.kick();
  await new Promise(setImmediate);
  expect(statistics?.takeUsed()).toEqual([]);
  // It keeps no pause waiting.
  await one.transport.stop();
  one.transport.start();
});
