import { readlinkSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { DirtyBitmaps } from '@godwit/core';
import {
  type AddressRange,
  createGuestMemory,
  FaultMessages,
  hostSupport,
  type MappedGuestMemory,
  type MappedRamBlock,
  PagemapTracker,
  SharedUserfaultfd,
  Userfaultfd,
} from '@godwit/linux';
import { addressOf, Errno, Uffd } from '@godwit/linux/unstable';
import { afterEach, expect } from '@jest/globals';
import { errorOf } from './error-of.js';
import { testWhen } from './when-usable.js';

const { asyncWriteProtect, pagemapScan, userfaultfdKernelFaults } = hostSupport();
const testSharing = testWhen(asyncWriteProtect, pagemapScan, userfaultfdKernelFaults);

const PAGES = 64;
const page = new Uint8Array(new ArrayBuffer(4096)).fill(7);

const ending: (() => void | Promise<void>)[] = [];
afterEach(async () => {
  for (const end of ending.splice(0).reverse()) await end();
});

function guest(): { memory: MappedGuestMemory; range: AddressRange; bytes: Uint8Array; at: (page: number) => number } {
  const memory = createGuestMemory({
    blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * 4096 }],
  });
  ending.push(() => memory.close());
  const block = memory.blocks[0] as MappedRamBlock;
  const range = { address: block.hostAddress, byteLength: block.byteLength };
  return { memory, range, bytes: block.view(0, block.byteLength), at: (n) => Number(block.hostAddress) + n * 4096 };
}

function join(ranges: readonly AddressRange[], use: 'missing' | 'asynchronous' | 'synchronous'): SharedUserfaultfd {
  const user = SharedUserfaultfd.join(ranges, use);
  ending.push(() => user.leave());
  return user;
}

async function tracked(memory: MappedGuestMemory): Promise<PagemapTracker> {
  const tracker = PagemapTracker.forMemory(memory);
  ending.push(() => tracker.stop());
  await tracker.start();
  return tracker;
}

async function written(memory: MappedGuestMemory, tracker: PagemapTracker): Promise<number[]> {
  const bitmaps = new DirtyBitmaps(memory);
  await tracker.harvest(bitmaps);
  const bitmap = bitmaps.at(0);
  const pages: number[] = [];
  for (let at = bitmap.nextDirty(0); at !== -1; at = bitmap.nextDirty(at + 1)) pages.push(at);
  return pages;
}

function put({ uffd }: SharedUserfaultfd, to: number): void {
  if (uffd.copy(to, Number(addressOf(page)), 4096) !== 4096) throw uffd.failure();
}

/** Whether somebody waits for a page, seen once the thread of the pool that `store` runs on is in it. */
async function reported(messages: FaultMessages): Promise<number> {
  for (;;) {
    if (messages.read() > 0) return messages.address(0);
    await setImmediate();
  }
}

testSharing('the tracker and the serving of missing pages work on one descriptor, whoever comes first', async () => {
  for (const trackerFirst of [true, false]) {
    const { memory, range, bytes, at } = guest();
    let tracker = trackerFirst ? await tracked(memory) : undefined;
    const serving = join([range], 'missing');
    tracker ??= await tracked(memory);
    put(serving, at(1));
    put(serving, at(2));
    // A page that arrives counts as written: no tracker has seen it before.
    expect(await written(memory, tracker)).toEqual([1, 2]);
    bytes[2 * 4096] = 1;
    expect(bytes[2 * 4096 + 1]).toBe(7);
    expect(await written(memory, tracker)).toEqual([2]);
    expect(await written(memory, tracker)).toEqual([]);
    // Without the tracker, pages are still missing, and writing needs nobody's leave.
    await tracker.stop();
    bytes[4096] = 3;
    const messages = new FaultMessages(serving.uffd.fd);
    expect(messages.read()).toBe(0);
    expect(serving.uffd.zero(at(3), 4096)).toBe(4096);
    const again = await tracked(memory);
    expect(await written(memory, again)).toEqual([]);
    bytes[3 * 4096] = 1;
    put(serving, at(0));
    serving.leave();
    // Without the serving, holes are no longer missing, and writes are still tracked: first everything counts as written.
    bytes[5 * 4096] = 1;
    expect(await written(memory, again)).toEqual(Array.from({ length: PAGES }, (_, n) => n));
    bytes[6 * 4096] = 1;
    bytes[0] = 1;
    expect(await written(memory, again)).toEqual([0, 6]);
    await again.stop();
    const { fd } = serving.uffd;
    expect(isUserfaultfd(fd)).toBe(false);
  }
});

testSharing(
  'a page that was protected while it was missing is still reported as missing, and then as written',
  async () => {
    const { memory, range, at, bytes } = guest();
    const serving = join([range], 'missing');
    const tracker = await tracked(memory);
    const messages = new FaultMessages(serving.uffd.fd);
    // A thread of the pool writes it: io_uring or read(2) of a device model would.
    const { promises } = await import('node:fs');
    const zeros = await promises.open('/dev/zero');
    ending.push(() => zeros.close());
    const reading = zeros.read(bytes.subarray(9 * 4096, 9 * 4096 + 8));
    expect(await reported(messages)).toBe(at(9));
    put(serving, at(9));
    await reading;
    expect([bytes[9 * 4096], bytes[9 * 4096 + 8]]).toEqual([0, 7]);
    expect(await written(memory, tracker)).toEqual([9]);
  },
);

testSharing('a range has one user of each kind, and write protection is of one kind', async () => {
  const { range } = guest();
  const serving = join([range], 'missing');
  expect(await errorOf(() => SharedUserfaultfd.join([range], 'missing'))).toMatchObject({
    code: 'GODWIT_INVALID_STATE',
  });
  const tracking = join([range], 'asynchronous');
  expect(tracking.uffd).toBe(serving.uffd);
  const beside = () => SharedUserfaultfd.join([range], 'synchronous');
  expect(await errorOf(beside)).toMatchObject({ code: 'GODWIT_UNSUPPORTED' });
  serving.leave();
  expect(await errorOf(beside)).toMatchObject({
    code: 'GODWIT_UNSUPPORTED',
    message: expect.stringContaining('wait until the pagemap tracker is stopped'),
  });
  tracking.leave();
  const protecting = join([range], 'synchronous');
  expect(protecting.uffd.writeProtect(Number(range.address), range.byteLength, true)).toBe(range.byteLength);
  expect(await errorOf(() => SharedUserfaultfd.join([range], 'missing'))).toMatchObject({ code: 'GODWIT_UNSUPPORTED' });
});

testSharing('ranges that overlap in part have the modes of both only where both are', () => {
  const { range, at, bytes } = guest();
  const half = { address: range.address, byteLength: 32 * 4096 };
  const most = { address: range.address + 16n * 4096n, byteLength: 48 * 4096 };
  const serving = join([half], 'missing');
  const tracking = join([most], 'asynchronous');
  const { uffd } = serving;
  expect(tracking.uffd).toBe(uffd);
  // Behind the first half nothing is missing: a store makes the page by itself.
  bytes[40 * 4096] = 1;
  put(serving, at(20));
  expect(uffd.writeProtect(at(20), 4096, true)).toBe(4096);
  expect(uffd.writeProtect(at(10), 4096, true)).toBe(0);
  expect(uffd.errno).toBe(Errno.ENOENT);
  tracking.leave();
  // Not protected any more, though the kernel keeps the mode where pages may be missing.
  bytes[20 * 4096] = 1;
  expect(uffd.copy(at(41), Number(addressOf(page)), 4096)).toBe(0);
  expect(uffd.errno).toBe(Errno.ENOENT);
  put(serving, at(21));
});

testSharing(
  'a range that belongs to another userfaultfd is refused, and nothing of the others stays registered',
  async () => {
    const { range } = guest();
    const { range: second } = guest();
    const foreign = Userfaultfd.open(Uffd.UFFD_FEATURE_MISSING_SHMEM);
    ending.push(() => foreign.close());
    foreign.register(second.address, second.byteLength, Uffd.UFFDIO_REGISTER_MODE_MISSING);
    const error = await errorOf(() => SharedUserfaultfd.join([range, second], 'missing'));
    expect(error).toMatchObject({ code: 'GODWIT_SYSCALL', errnoName: 'EBUSY' });
    expect(error.message).toContain('another userfaultfd has this range');
    foreign.register(range.address, range.byteLength, Uffd.UFFDIO_REGISTER_MODE_MISSING);
  },
);

testSharing('ranges can be given back while a thread still has the descriptor', () => {
  const { range, bytes, at } = guest();
  const serving = join([range], 'missing');
  const tracking = join([range], 'asynchronous');
  put(serving, at(1));
  serving.unregister();
  tracking.leave();
  // Nobody serves it, and nobody waits.
  expect([bytes[4096], bytes[2 * 4096]]).toEqual([7, 0]);
  expect(isUserfaultfd(serving.uffd.fd)).toBe(true);
  const next = join([range], 'missing');
  expect(next.uffd).not.toBe(serving.uffd);
  serving.leave();
  expect(isUserfaultfd(serving.uffd.fd)).toBe(false);
  put(next, at(3));
});

function isUserfaultfd(fd: number): boolean {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`).includes('userfaultfd');
  } catch {
    return false;
  }
}

testSharing('a reserved range is ordinary memory until it is registered', async () => {
  const { memory, range, bytes, at } = guest();
  const reserved = SharedUserfaultfd.reserve([range], 'missing');
  ending.push(() => reserved.leave());
  // No page is missing: this thread, which serves none, may touch them.
  bytes[0] = 1;
  expect(bytes[4096]).toBe(0);
  reserved.register();
  memory.blocks[0]?.discard({ firstPage: 0, pageCount: 1 });
  put(reserved, at(0));
  expect(bytes[0]).toBe(7);
  expect(() => SharedUserfaultfd.join([range], 'missing')).toThrow('used for "missing" faults already');
});

testSharing(
  'a reserved range that gets another descriptor meanwhile is not registered, and goes on with that',
  async () => {
    const { memory, range, bytes } = guest();
    const reserved = SharedUserfaultfd.reserve([range], 'missing');
    ending.push(() => reserved.leave());
    const tracker = await tracked(memory);
    expect(() => reserved.register()).toThrow('has got another userfaultfd since it was reserved');
    reserved.leave();
    bytes[5 * 4096] = 1;
    expect(await written(memory, tracker)).toContain(5);
  },
);
