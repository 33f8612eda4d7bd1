import { DirtyBitmaps, type GuestMemory } from '@godwit/core';
import {
  createGuestMemory,
  hostSupport,
  Kvm,
  KvmDirtyLogTracker,
  KvmDirtyRingTracker,
  type KvmSlot,
  type MappedGuestMemory,
  type MappedRamBlock,
} from '@godwit/linux';
import { mostDirtyRingEntries } from '@godwit/linux/kvm';
import { HOST_PAGE_SIZE, KvmDirtyRing, tryIoctl } from '@godwit/linux/unstable';
import { afterEach, expect, jest, test } from '@jest/globals';
import fc from 'fast-check';
import { errorOf } from './error-of.js';
import { timeLimit } from './time-limit.js';
import { testWhen } from './when-usable.js';
import { RING_STAYS_FULL, WritingGuest } from './writing-guest.js';

/** Each start of a tracker starts a thread; a loaded machine takes its time. */
jest.setTimeout(timeLimit(120_000));

const PAGE = HOST_PAGE_SIZE;
const testRing = testWhen(hostSupport().kvmDirtyRing);

/** Two RAM blocks in three slots, of which one is a whole block, and none ends at a multiple of 64 pages. */
const SLOTS: readonly KvmSlot[] = [
  { slot: 0, blockIndex: 0, firstPage: 0, pageCount: 149 },
  { slot: 1, blockIndex: 0, firstPage: 149, pageCount: 13000 },
  { slot: 2, blockIndex: 1, firstPage: 0, pageCount: 201 },
];
const BLOCK_PAGES = [13149, 201] as const;
const TOTAL_PAGES = 13350;
/** The guest's own code and list of things to write. */
const OWN_PAGES = 2;
/** The smallest, so that it wraps around. */
const ENTRIES = 4096;
/** Far fewer than KVM keeps in reserve: one that emulates instructions looks at the ring between runs only, and may log a page twice. */
const AT_ONCE = 20;

interface Machine {
  readonly memory: MappedGuestMemory;
  readonly guest: WritingGuest;
  readonly tracker: KvmDirtyRingTracker;
}

const running: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const machine of running.splice(0)) await machine.close();
});

function machine(softLimit?: number, slots = SLOTS): Machine {
  const memory = createGuestMemory({
    blocks: [
      { id: 'low', guestPhysicalAddress: 0, byteLength: BLOCK_PAGES[0] * PAGE },
      { id: 'high', guestPhysicalAddress: BLOCK_PAGES[0] * PAGE, byteLength: BLOCK_PAGES[1] * PAGE },
    ],
  });
  const kvm = Kvm.open();
  const guest = new WritingGuest(
    kvm,
    SLOTS.map(({ blockIndex, firstPage, pageCount }) => {
      const block = memory.blocks[blockIndex] as MappedRamBlock;
      return {
        hostAddress: block.hostAddress + BigInt(firstPage * PAGE),
        view: block.view(firstPage * PAGE, pageCount * PAGE),
      };
    }),
    ENTRIES,
  );
  kvm.close();
  if (guest.rings === undefined) throw new Error('it was made with rings');
  const tracker = new KvmDirtyRingTracker({
    ...{ vmFd: guest.vm.fd, vcpuFds: [guest.vcpuFd], rings: guest.rings, slots },
    ...(softLimit === undefined ? {} : { softLimit }),
    setLogging: (on) => guest.setLogging(on),
  });
  guest.onRingFull = () => tracker.calls.ringFull(0);
  running.push({
    async close() {
      await tracker.stop();
      guest.close();
      memory.close();
    },
  });
  return { memory, guest, tracker };
}

/** Pages numbered through both blocks: a guest-physical page number. */
function touch(guest: WritingGuest, pages: readonly number[], value = 1): void {
  for (let i = 0; i < pages.length; i += AT_ONCE) {
    guest.write(pages.slice(i, i + AT_ONCE).map((page) => ({ address: page * PAGE + 8, value })));
  }
}

function pagesIn(bitmaps: DirtyBitmaps): number[] {
  const pages: number[] = [];
  for (const [i, bitmap] of bitmaps.blocks.entries()) {
    const base = i === 0 ? 0 : BLOCK_PAGES[0];
    for (let page = bitmap.nextDirty(0); page !== -1; page = bitmap.nextDirty(page + 1)) pages.push(base + page);
  }
  return pages;
}

async function harvested({
  memory,
  tracker,
}: {
  memory: GuestMemory;
  tracker: KvmDirtyRingTracker;
}): Promise<number[]> {
  const bitmaps = new DirtyBitmaps(memory);
  await tracker.harvest(bitmaps);
  return pagesIn(bitmaps);
}

const guestPage = fc.integer({ min: OWN_PAGES, max: TOTAL_PAGES - 1 });

for (const softLimit of [undefined, 1, ENTRIES]) {
  testRing(
    `each harvest reports exactly what the guest wrote, with a soft limit of ${softLimit ?? 'half a ring'}`,
    async () => {
      const vm = machine(softLimit);
      await vm.tracker.start();
      let total = 0;
      await fc.assert(
        fc.asyncProperty(
          fc.array(fc.array(guestPage, { minLength: 100, maxLength: 300 }), { minLength: 1, maxLength: 4 }),
          async (rounds) => {
            for (const pages of rounds) {
              touch(vm.guest, pages);
              expect(await harvested(vm)).toEqual([...new Set(pages)].sort((a, b) => a - b));
              total += pages.length;
            }
            expect(await harvested(vm)).toEqual([]);
          },
        ),
        { numRuns: 25 },
      );
      expect(total).toBeGreaterThan(ENTRIES);
    },
  );
}

testRing('whatever the guest writes between a harvest and the copy of what it reported, nothing is lost', async () => {
  const { memory, guest, tracker } = machine();
  await tracker.start();
  const copies = memory.blocks.map((block) => new Uint8Array(block.byteLength));
  const copy = (bitmaps: DirtyBitmaps): void => {
    for (const [i, bitmap] of bitmaps.blocks.entries()) {
      for (let page = bitmap.nextDirty(0); page !== -1; page = bitmap.nextDirty(page + 1)) {
        (copies[i] as Uint8Array).set((memory.blocks[i] as MappedRamBlock).view(page * PAGE, PAGE), page * PAGE);
      }
    }
  };
  let value = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.array(guestPage, { maxLength: 60 }), { minLength: 1, maxLength: 6 }),
      async (rounds) => {
        for (const pages of rounds) {
          const bitmaps = new DirtyBitmaps(memory);
          // While the thread reaps: some are in this harvest, and some in the next.
          const harvest = tracker.harvest(bitmaps);
          touch(guest, pages, ++value);
          await harvest;
          touch(guest, pages.slice(0, 10), ++value);
          copy(bitmaps);
        }
        const last = new DirtyBitmaps(memory);
        await tracker.harvest(last);
        copy(last);
        for (const [i, block] of memory.blocks.entries()) {
          const own = i === 0 ? OWN_PAGES * PAGE : 0;
          const now = block.view(own, block.byteLength - own);
          expect(Buffer.compare(now, (copies[i] as Uint8Array).subarray(own))).toBe(0);
        }
      },
    ),
    { numRuns: 30 },
  );
});

testRing(
  'a guest that writes more than a ring holds waits for the thread that reaps it, and nothing is lost',
  async () => {
    // Nobody reaps before the ring is full.
    const vm = machine(ENTRIES);
    await vm.tracker.start();
    const all = Array.from({ length: TOTAL_PAGES - OWN_PAGES }, (_, i) => OWN_PAGES + i);
    touch(vm.guest, all);
    expect(vm.tracker.calls.fullExits()[0]).toBeGreaterThanOrEqual(3);
    expect(vm.tracker.logged()).toEqual([all.length]);
    expect(await harvested(vm)).toEqual(all);
    const [vcpu] = vm.tracker.vcpus();
    expect(vcpu?.ringFull).toBe(vm.tracker.calls.fullExits()[0]);
    expect(vcpu?.dirtyPagesPerSecond).toBeGreaterThan(0);
    await vm.tracker.harvest(new DirtyBitmaps(vm.memory));
    expect(vm.tracker.vcpus()).toEqual([{ dirtyPagesPerSecond: 0, ringFull: 0 }]);
  },
);

testRing('between harvests the rings are reaped at the soft limit, and not before', async () => {
  const vm = machine(200);
  await vm.tracker.start();
  const waiting = (): number => vm.tracker.waiting()[0] as number;
  const pages = Array.from({ length: 150 }, (_, i) => 10 + i);
  touch(vm.guest, pages);
  // The thread looks every millisecond.
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(waiting()).toBe(150);
  const more = pages.map((page) => page + 200);
  touch(vm.guest, more.slice(0, 50));
  while (waiting() > 0) await new Promise((resolve) => setTimeout(resolve, 1));
  touch(vm.guest, more.slice(50));
  expect(await harvested(vm)).toEqual([...pages, ...more]);
});

testRing('starting, stopping and starting again, with entries left in the ring', async () => {
  const vm = machine();
  const { tracker, guest, memory } = vm;
  expect((await errorOf(() => harvested(vm))).code).toBe('GODWIT_INVALID_STATE');
  await tracker.start();
  expect((await errorOf(() => tracker.start())).code).toBe('GODWIT_INVALID_STATE');
  for (let i = 0; i < 3; i++) {
    touch(guest, [9, 700]);
    await tracker.stop();
    await tracker.stop();
    touch(guest, [10]);
    await tracker.start();
    expect(await harvested(vm)).toEqual([]);
    touch(guest, [11 + i]);
    expect(await harvested(vm)).toEqual([11 + i]);
  }
  // Our own stores are in no ring, as the tracker says.
  (memory.blocks[0] as MappedRamBlock).view(12 * PAGE, 1)[0] = 1;
  expect(await harvested(vm)).toEqual([]);
  expect(tracker.blindSpots).toMatch(/VMM/);
});

testRing('a stop in the middle of a harvest waits for it; two harvests at once are refused', async () => {
  const { tracker, guest, memory } = machine();
  await tracker.start();
  touch(guest, [5]);
  const bitmaps = new DirtyBitmaps(memory);
  bitmaps.at(1).set(200);
  const harvest = tracker.harvest(bitmaps);
  expect((await errorOf(() => tracker.harvest(bitmaps))).code).toBe('GODWIT_INVALID_STATE');
  await tracker.stop();
  await harvest;
  expect(pagesIn(bitmaps)).toEqual([5, BLOCK_PAGES[0] + 200]);
});

testRing('a ring that KVM overruns is a failure that says so; then it is exact again', async () => {
  const vm = machine(ENTRIES);
  const { tracker, guest } = vm;
  await tracker.start();
  const burst = Array.from({ length: 500 }, (_, i) => 100 + i);
  // A ring that is nearly full, then 500 pages in one run. A processor leaves the guest in time; a KVM that emulates does not.
  touch(
    guest,
    Array.from({ length: 3900 }, (_, i) => 2000 + i),
  );
  try {
    guest.write(burst.map((page) => ({ address: page * PAGE + 8, value: 2 })));
  } catch (error) {
    // The vCPU runs on this thread, which is to begin anew.
    if ((error as Error).message !== RING_STAYS_FULL) throw error;
  }
  const bitmaps = new DirtyBitmaps(vm.memory);
  const error = await tracker.harvest(bitmaps).catch((reason: unknown) => reason);
  if (error === undefined) expect(pagesIn(bitmaps)).toHaveLength(4400);
  else {
    expect(error).toMatchObject({ code: 'GODWIT_TRACKER_FAILED', message: expect.stringMatching(/overwritten some/) });
    // Said once: logging has begun anew.
    expect(await harvested(vm)).toEqual([]);
    touch(guest, [7]);
    expect(await harvested(vm)).toEqual([7]);
    await tracker.stop();
    await tracker.start();
  }
  for (let i = 0; i < 40; i++) {
    const pages = Array.from({ length: 40 + i }, (_, at) => 50 + 31 * i + at);
    touch(guest, pages);
    expect(await harvested(vm)).toEqual(pages);
  }
});

testRing(
  'beside rings there is no dirty log, and without them no ring: both are said before anything is touched',
  async () => {
    const { guest } = machine();
    const log = new KvmDirtyLogTracker({ vmFd: guest.vm.fd, slots: SLOTS, setLogging: (on) => guest.setLogging(on) });
    const beside = await errorOf(() => log.start());
    expect([beside.code, beside.message]).toEqual([
      'GODWIT_UNSUPPORTED',
      expect.stringMatching(/ENXIO.*KvmDirtyRingTracker/),
    ]);

    const kvm = Kvm.open();
    const vm = kvm.createVm();
    const vcpu = vm.createVcpu(0);
    kvm.close();
    try {
      const tracker = new KvmDirtyRingTracker({
        ...{ vmFd: vm.fd, vcpuFds: [vcpu.fd], rings: { entries: ENTRIES, withBitmap: false }, slots: SLOTS },
        setLogging: () => undefined,
      });
      expect(await errorOf(() => tracker.start())).toMatchObject({
        code: 'GODWIT_INVALID_STATE',
        message: expect.stringMatching(/enableDirtyRings/),
      });
      // Too late.
      expect((await errorOf(() => vm.enableDirtyRings(ENTRIES))).code).toBe('GODWIT_INVALID_STATE');
      const most = mostDirtyRingEntries(vm.fd);
      expect(most).toBeGreaterThanOrEqual(ENTRIES);
      for (const entries of [0, 100, 5000, 2048, most * 2, 1.5, Number.NaN]) {
        expect((await errorOf(() => vm.enableDirtyRings(entries))).code).toBe('GODWIT_INVALID_ARGUMENT');
      }
    } finally {
      vcpu.close();
      vm.close();
    }
  },
);

testRing(
  'a bitmap that KVM keeps beside the rings is read at every harvest; when it cannot be, that is a failure',
  async () => {
    const { guest, memory } = machine();
    if (guest.rings === undefined) throw new Error('it was made with rings');
    // On x86-64 there is none.
    expect(guest.rings.withBitmap).toBe(false);
    const tracker = new KvmDirtyRingTracker({
      ...{ vmFd: guest.vm.fd, vcpuFds: [guest.vcpuFd], rings: { ...guest.rings, withBitmap: true }, slots: SLOTS },
      setLogging: (on) => guest.setLogging(on),
    });
    await tracker.start();
    const error = await errorOf(() => tracker.harvest(new DirtyBitmaps(memory)));
    expect(error).toMatchObject({ code: 'GODWIT_TRACKER_FAILED', cause: { syscall: 'KVM_GET_DIRTY_LOG' } });
    await tracker.stop();
  },
);

testRing('a VMM that refuses to log leaves nothing behind', async () => {
  const { guest } = machine();
  if (guest.rings === undefined) throw new Error('it was made with rings');
  const tracker = new KvmDirtyRingTracker({
    ...{ vmFd: guest.vm.fd, vcpuFds: [guest.vcpuFd], rings: guest.rings, slots: SLOTS },
    setLogging: (on) => {
      if (on) throw new Error('the VMM says no');
    },
  });
  const error = await errorOf(() => tracker.start());
  expect([error.code, error.message]).toEqual(['GODWIT_TRACKER_FAILED', expect.stringContaining('the VMM says no')]);
  expect((await errorOf(() => tracker.harvest(new DirtyBitmaps({ pageSize: PAGE, blocks: [] })))).code).toBe(
    'GODWIT_INVALID_STATE',
  );
  // With nobody to reap it, a vCPU whose ring is full comes back soon.
  tracker.calls.ringFull(0);
  expect(tryIoctl(guest.vm.fd, KvmDirtyRing.KVM_RESET_DIRTY_RINGS)).toBe(0);
});

test('slots without pages, and soft limits that no ring reaches, are refused', async () => {
  const rings = { entries: 1024, withBitmap: false };
  const parts = { vmFd: -1, vcpuFds: [], rings, setLogging: () => undefined };
  const slot = { slot: 0, blockIndex: 0, firstPage: 0 };
  const of = (pageCount: number, softLimit: number) => () =>
    new KvmDirtyRingTracker({ ...parts, slots: [{ ...slot, pageCount }], softLimit });
  for (const make of [of(0, 1), of(1, 0), of(1, 1025), of(1, 0.5)]) {
    expect((await errorOf(make)).code).toBe('GODWIT_INVALID_ARGUMENT');
  }
  expect(of(1, 1024)().softLimit).toBe(1024);
});
