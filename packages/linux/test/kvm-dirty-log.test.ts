import { DirtyBitmaps } from '@godwit/core';
import {
  createGuestMemory,
  hostSupport,
  Kvm,
  type KvmDirtyLogMode,
  KvmDirtyLogTracker,
  type KvmSlot,
  type MappedGuestMemory,
  type MappedRamBlock,
  type SyscallError,
} from '@godwit/linux';
import { HOST_PAGE_SIZE } from '@godwit/linux/unstable';
import { afterEach, expect, jest, test } from '@jest/globals';
import fc from 'fast-check';
import { errorOf } from './error-of.js';
import { timeLimit } from './time-limit.js';
import { testWhen } from './when-usable.js';
import { type GuestWrite, WritingGuest } from './writing-guest.js';

/** Properties make many system calls; a loaded machine takes its time. */
jest.setTimeout(timeLimit(60_000));

const PAGE = HOST_PAGE_SIZE;
const support = hostSupport();
const testKvm = testWhen(support.kvm, support.kvmManualDirtyLog);
const MODES: readonly KvmDirtyLogMode[] = ['manual', 'get-and-clear'];

/**
 * Two RAM blocks in three slots. The second slot starts at a page of its block that is no multiple of 32, and the last
 * one is no multiple of 64 pages long: KVM's bitmaps count from the slot, ours from the block.
 */
const SLOTS: readonly KvmSlot[] = [
  { slot: 0, blockIndex: 0, firstPage: 0, pageCount: 149 },
  { slot: 1, blockIndex: 0, firstPage: 149, pageCount: 363 },
  { slot: 2, blockIndex: 1, firstPage: 0, pageCount: 201 },
];
const BLOCK_PAGES = [512, 201] as const;
const TOTAL_PAGES = 713;
/** The guest's own code and list of things to write. */
const OWN_PAGES = 2;

interface Machine {
  readonly memory: MappedGuestMemory;
  readonly guest: WritingGuest;
  readonly tracker: KvmDirtyLogTracker;
}

const running: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const machine of running.splice(0)) await machine.close();
});

function machine(mode: KvmDirtyLogMode): Machine {
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
  );
  kvm.close();
  const tracker = new KvmDirtyLogTracker({
    vmFd: guest.vm.fd,
    slots: SLOTS,
    mode,
    setLogging: (on) => guest.setLogging(on),
  });
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
function touch(...pages: readonly number[]): GuestWrite[] {
  return pages.map((page) => ({ address: page * PAGE + 8, value: page + 1 }));
}

/** Block and first page of the chunk that holds a guest-physical page. */
function chunkOf(page: number, chunk: number): [block: number, first: number] {
  const block = page < BLOCK_PAGES[0] ? 0 : 1;
  const inBlock = page - (block === 0 ? 0 : BLOCK_PAGES[0]);
  return [block, inBlock - (inBlock % chunk)];
}

/** All of a block but the pages that hold the guest's code and list. */
function guestsPart(block: MappedRamBlock, index: number): Uint8Array {
  const own = index === 0 ? OWN_PAGES * PAGE : 0;
  return block.view(own, block.byteLength - own);
}

function pagesIn(bitmaps: DirtyBitmaps): number[] {
  const pages: number[] = [];
  for (const [i, bitmap] of bitmaps.blocks.entries()) {
    const base = i === 0 ? 0 : BLOCK_PAGES[0];
    for (let page = bitmap.nextDirty(0); page !== -1; page = bitmap.nextDirty(page + 1)) pages.push(base + page);
  }
  return pages;
}

async function harvested({ memory, tracker }: Machine): Promise<number[]> {
  const bitmaps = new DirtyBitmaps(memory);
  await tracker.harvest(bitmaps);
  return pagesIn(bitmaps);
}

const guestPage = fc.integer({ min: OWN_PAGES, max: TOTAL_PAGES - 1 });
/** Few pages, in few chunks, so that steps meet: around the border of two slots, and at the end of the last one. */
const crowdedPage = fc.constantFrom(63, 64, 127, 128, 148, 149, 150, 191, 192, 212, 213, 511, 512, 575, 576, 711, 712);

/** Re-arms these pages of `count` from `first` on (multiples of 64, except at the end of the block), and no others. */
function rearm(
  tracker: KvmDirtyLogTracker,
  block: number,
  first: number,
  count: number,
  pages: readonly number[],
): void {
  const words = new Uint32Array(Math.ceil(count / 64) * 2);
  for (const page of pages) {
    const bit = page - first;
    if (bit >= 0 && bit < count) words[Math.floor(bit / 32)] = (words[Math.floor(bit / 32)] ?? 0) | (1 << (bit % 32));
  }
  tracker.rearmPages?.(block, first, count, words);
}

for (const mode of MODES) {
  testKvm(`${mode}: each harvest reports exactly what the guest wrote and what is not re-armed yet`, async () => {
    const round = fc.record({
      pages: fc.array(guestPage, { maxLength: 40 }),
      rearms: fc.array(
        fc.record({
          block: fc.nat(1),
          chunk: fc.nat(7),
          chunks: fc.integer({ min: 1, max: 3 }),
          pages: fc.array(guestPage, { maxLength: 40 }),
        }),
        { maxLength: 4 },
      ),
    });
    const vm = machine(mode);
    await fc.assert(
      fc.asyncProperty(fc.array(round, { minLength: 1, maxLength: 5 }), async (rounds) => {
        vm.guest.write(touch(5, 600));
        await vm.tracker.stop();
        await vm.tracker.start();
        const expected = new Set<number>();
        for (const { pages, rearms } of rounds) {
          if (mode === 'get-and-clear') expected.clear();
          for (const page of pages) expected.add(page);
          vm.guest.write(touch(...pages));
          expect(await harvested(vm)).toEqual([...expected].sort((a, b) => a - b));
          for (const { block, chunk, chunks, pages: chosen } of rearms) {
            const first = chunk * 64;
            const count = Math.min(chunks * 64, (BLOCK_PAGES[block] as number) - first);
            if (count <= 0) continue;
            const base = block === 0 ? 0 : BLOCK_PAGES[0];
            // Some that were written, and some that were not; those outside the range are left alone.
            const inBlock = [...chosen, ...pages.slice(0, pages.length / 2)].map((page) => page - base);
            rearm(vm.tracker, block, first, count, inBlock);
            for (const page of inBlock) if (page >= first && page < first + count) expected.delete(base + page);
          }
        }
        for (const [i, count] of BLOCK_PAGES.entries()) {
          rearm(
            vm.tracker,
            i,
            0,
            count,
            Array.from({ length: count }, (_, page) => page),
          );
        }
        if (mode === 'manual') expect(await harvested(vm)).toEqual([]);
      }),
      { numRuns: 25 },
    );
  });

  /**
   * The engine in small: it copies what harvests report, chunk by chunk, re-arming a chunk before it reads it, while the
   * guest writes between any two of these steps. After a last harvest with the guest stopped the copy must be equal.
   */
  testKvm(`${mode}: whatever the guest writes between harvest, re-arm and copy, nothing is lost`, async () => {
    const chunk = 64;
    const few = fc.array(crowdedPage, { maxLength: 2 });
    const steps = fc.array(
      fc.oneof(
        { weight: 2, arbitrary: fc.record({ do: fc.constant('write' as const), pages: few }) },
        { weight: 1, arbitrary: fc.record({ do: fc.constant('harvest' as const) }) },
        { weight: 2, arbitrary: fc.record({ do: fc.constant('copy' as const), page: crowdedPage }) },
      ),
      { minLength: 5, maxLength: 30 },
    );
    const { memory, guest, tracker } = machine(mode);
    await fc.assert(
      fc.asyncProperty(steps, few, async (actions, between) => {
        await tracker.stop();
        // The copy begins as zeros: so does the memory, where the last run has written.
        for (const [i, block] of memory.blocks.entries()) guestsPart(block, i).fill(0);
        await tracker.start();
        const owed = new DirtyBitmaps(memory);
        const copies = memory.blocks.map((block) => new Uint8Array(block.byteLength));
        let value = 0;
        const write = (pages: readonly number[]): void =>
          guest.write(pages.map((page) => ({ address: page * PAGE + 64, value: ++value })));
        const copy = (index: number, first: number, interrupted: readonly number[]): void => {
          const bitmap = owed.at(index);
          const end = Math.min(first + chunk, bitmap.pageCount);
          if (first >= end) return;
          const words = new Uint32Array(Math.ceil((end - first) / 64) * 2);
          bitmap.copyWords(first, words);
          tracker.rearmPages?.(index, first, end - first, words);
          write(interrupted);
          for (let page = bitmap.nextDirty(first); page !== -1 && page < end; page = bitmap.nextDirty(page + 1)) {
            copies[index]?.set((memory.blocks[index] as MappedRamBlock).view(page * PAGE, PAGE), page * PAGE);
          }
          bitmap.clearRange(first, end - first);
        };
        for (const action of actions) {
          if (action.do === 'write') write(action.pages);
          else if (action.do === 'harvest') await tracker.harvest(owed);
          else copy(...chunkOf(action.page, chunk), between);
        }
        await tracker.harvest(owed);
        for (const [i, count] of BLOCK_PAGES.entries()) for (let at = 0; at < count; at += chunk) copy(i, at, []);
        for (const [i, block] of memory.blocks.entries()) {
          const now = guestsPart(block, i);
          const copied = copies[i]?.subarray(block.byteLength - now.byteLength) as Uint8Array;
          expect(Buffer.compare(now, copied)).toBe(0);
        }
      }),
      { numRuns: 60 },
    );
  });

  testKvm(`${mode}: starting, stopping and starting again`, async () => {
    const vm = machine(mode);
    const { tracker, guest, memory } = vm;
    expect((await errorOf(() => harvested(vm))).code).toBe('GODWIT_INVALID_STATE');
    await tracker.start();
    expect((await errorOf(() => tracker.start())).code).toBe('GODWIT_INVALID_STATE');
    guest.write(touch(9));
    await tracker.stop();
    await tracker.stop();
    guest.write(touch(10));
    await tracker.start();
    expect(await harvested(vm)).toEqual([]);
    guest.write(touch(11));
    expect(await harvested(vm)).toEqual([11]);
    // Our own stores are not in KVM's log, as the tracker says.
    (memory.blocks[0] as MappedRamBlock).view(12 * PAGE, 1)[0] = 1;
    expect(await harvested(vm)).not.toContain(12);
    expect(tracker.blindSpots).toMatch(/VMM/);
  });

  testKvm(`${mode}: harvests OR into what is there`, async () => {
    const { tracker, guest, memory } = machine(mode);
    await tracker.start();
    const bitmaps = new DirtyBitmaps(memory);
    bitmaps.at(1).set(200);
    guest.write(touch(150));
    await tracker.harvest(bitmaps);
    expect(pagesIn(bitmaps)).toEqual([150, BLOCK_PAGES[0] + 200]);
  });
}

testKvm('manual: a bit that is set between the harvest and the re-arm survives the re-arm', async () => {
  const vm = machine('manual');
  await vm.tracker.start();
  vm.guest.write(touch(160, 300));
  expect(await harvested(vm)).toEqual([160, 300]);
  vm.guest.write(touch(161));
  rearm(vm.tracker, 0, 128, 64, [160]);
  // 161 was not harvested before the re-arm; 300 was, but is not among the pages.
  expect(await harvested(vm)).toEqual([161, 300]);
  vm.guest.write(touch(160));
  expect(await harvested(vm)).toEqual([160, 161, 300]);
});

testKvm('get-and-clear has nothing to re-arm; manual is chosen where the kernel has it', () => {
  const { tracker, guest } = machine('get-and-clear');
  expect(tracker.rearmPages).toBeUndefined();
  const chosen = new KvmDirtyLogTracker({ vmFd: guest.vm.fd, slots: SLOTS, setLogging: () => undefined });
  expect([chosen.mode, typeof chosen.rearmPages]).toEqual(['manual', 'function']);
});

testKvm('a kernel error is a tracker error with the system call as its cause', async () => {
  const { guest, memory } = machine('manual');
  for (const mode of MODES) {
    // Nobody turns logging on.
    const tracker = new KvmDirtyLogTracker({ vmFd: guest.vm.fd, slots: SLOTS, mode, setLogging: () => undefined });
    await tracker.start();
    const error = await errorOf(() => tracker.harvest(new DirtyBitmaps(memory)));
    expect(error).toMatchObject({ code: 'GODWIT_TRACKER_FAILED', cause: { syscall: 'KVM_GET_DIRTY_LOG' } });
    expect((error.cause as SyscallError).errnoName).toBe('ENOENT');
  }
  const refusing = new KvmDirtyLogTracker({
    vmFd: guest.vm.fd,
    slots: SLOTS,
    setLogging: (on) => {
      if (on) throw new Error('the VMM says no');
    },
  });
  expect(await errorOf(() => refusing.start())).toMatchObject({
    code: 'GODWIT_TRACKER_FAILED',
    message: expect.stringContaining('the VMM says no'),
  });
  // Not half started.
  expect((await errorOf(() => refusing.harvest(new DirtyBitmaps(memory)))).code).toBe('GODWIT_INVALID_STATE');
});

testKvm('a slot that is larger than its block is an error, not a silent cut', async () => {
  const { guest, memory } = machine('manual');
  const slots = SLOTS.map((slot) => ({ ...slot, blockIndex: 1 }));
  const tracker = new KvmDirtyLogTracker({ vmFd: guest.vm.fd, slots, setLogging: (on) => guest.setLogging(on) });
  await tracker.start();
  expect((await errorOf(() => tracker.harvest(new DirtyBitmaps(memory)))).code).toBe('GODWIT_INVALID_ARGUMENT');
  await tracker.stop();
});

test('slots without pages are refused', async () => {
  const slots = [{ slot: 0, blockIndex: 0, firstPage: 0, pageCount: 0 }];
  const error = await errorOf(() => new KvmDirtyLogTracker({ vmFd: -1, slots, setLogging: () => undefined }));
  expect(error.code).toBe('GODWIT_INVALID_ARGUMENT');
});
