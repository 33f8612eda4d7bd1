import { claimOf, type MigratableVm, migrate, receive, SoftwareTracker } from '@godwit/core';
import { memoryLink } from '@godwit/core/testing';
import {
  attachGuestMemory,
  type BlockAttachment,
  createGuestMemory,
  type MappedGuestMemory,
  type MappedRamBlock,
} from '@godwit/linux';
import { afterEach, describe, expect, test } from '@jest/globals';

const PAGE = 4096;
const PAGES = 1024;
const HALF = (PAGES / 2) * PAGE;
const BLOCK = { id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE };

const open: MappedGuestMemory[] = [];
afterEach(() => {
  for (const memory of open.splice(0)) memory.close();
});

function kept(memory: MappedGuestMemory): MappedGuestMemory {
  open.push(memory);
  return memory;
}

function created(): { readonly memory: MappedGuestMemory; readonly block: MappedRamBlock; readonly fd: number } {
  const memory = kept(createGuestMemory({ blocks: [BLOCK] }));
  const block = memory.blocks[0] as MappedRamBlock;
  return { memory, block, fd: block.fd as number };
}

const attached = (block: Partial<BlockAttachment>): MappedGuestMemory =>
  kept(attachGuestMemory({ blocks: [{ ...BLOCK, byteLength: HALF, ...block }] }));
const only = (memory: MappedGuestMemory) => memory.blocks[0] as MappedRamBlock;
const populated = (block: MappedRamBlock) =>
  [...block.populated()].map(({ firstPage, pageCount }) => [firstPage, pageCount]);

describe('a block that is a part of a memory file', () => {
  test('sees that part, its holes and no others, and gives back that part', () => {
    const { block, fd } = created();
    for (const page of [0, 3, 90, 91, 600, 601, 1023]) block.view(page * PAGE, 1)[0] = page % 251;
    const second = only(attached({ fd, fileOffset: HALF }));
    expect([second.view(88 * PAGE, 1)[0], second.view(511 * PAGE, 1)[0]]).toEqual([600 % 251, 1023 % 251]);
    expect(populated(second)).toEqual([
      [88, 2],
      [511, 1],
    ]);
    expect([...second.populated({ firstPage: 89, pageCount: 100 })]).toEqual([{ firstPage: 89, pageCount: 1 }]);
    expect(second.discard({ firstPage: 80, pageCount: 20 })).toBe(true);
    expect(populated(block)).toEqual([
      [0, 1],
      [3, 1],
      [90, 2],
      [1023, 1],
    ]);
    expect(second.identity).toBe(block.identity?.replace(/\+0$/, `+${HALF}`));
  });

  test('goes to a worker thread as it is', () => {
    const { fd } = created();
    const memory = attached({ fd, fileOffset: HALF, shared: true, readOnly: true });
    const again = kept(attachGuestMemory(structuredClone(memory.attachment())));
    const { fileOffset, shared, readOnly, identity } = only(again);
    expect({ fileOffset, shared, readOnly, identity }).toEqual({
      ...{ fileOffset: HALF, shared: true, readOnly: true },
      identity: only(memory).identity,
    });
  });

  test.each([
    ['inside a page', 100],
    ['before the file', -PAGE],
    ['so that it ends behind the file', HALF + PAGE],
  ])('does not start %s', (_, fileOffset) => {
    const { fd } = created();
    expect(() => attachGuestMemory({ blocks: [{ ...BLOCK, byteLength: HALF, fd, fileOffset }] })).toThrow(
      expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT' }),
    );
  });

  test('is not discarded while another block has pinned it, whatever part of the file that one is', () => {
    const { block, fd } = created();
    const second = only(attached({ fd, fileOffset: HALF }));
    const third = only(attached({ fd, fileOffset: HALF + PAGE, byteLength: HALF - PAGE }));
    block.view(0, PAGES * PAGE).fill(7);
    const unpin = second.pin({ firstPage: 20, pageCount: 1 });
    // Pins are counted for 2 MiB from the start of the block that has them: the second half of the file.
    expect(block.discard({ firstPage: 520, pageCount: 30 })).toBe(false);
    expect(third.discard({ firstPage: 10, pageCount: 30 })).toBe(false);
    expect(block.discard({ firstPage: 0, pageCount: 512 })).toBe(true);
    expect([block.view(530 * PAGE, 1)[0], block.view(0, 1)[0]]).toEqual([7, 0]);
    unpin();
    expect(third.discard({ firstPage: 10, pageCount: 30 })).toBe(true);
    expect(block.view(530 * PAGE, 1)[0]).toBe(0);
  });
});

function vmOf(memory: MappedGuestMemory): MigratableVm & { running: boolean; abandon?: () => Promise<void> } {
  const vm = {
    ...{ memory, trackers: [new SoftwareTracker(memory)], devices: [], running: false },
    pause: async () => {
      vm.running = false;
    },
    resume: async () => {
      vm.running = true;
    },
  };
  return vm;
}

test('memory that both sides map moves without a copy, and without a page of it being touched', async () => {
  const { memory, block, fd } = created();
  block.view(0, 64 * PAGE).fill(9);
  const before = memory.allocatedBytes();
  const theirs = attached({ byteLength: BLOCK.byteLength, fd });
  for (const mapped of [block, only(theirs)]) mapped.shared = true;
  const [source, destination] = [vmOf(memory), vmOf(theirs)];
  source.running = true;
  const link = memoryLink();
  const incoming = receive(link.listener, { prepare: () => destination });
  const migration = migrate(source, link.connector, { verify: true });
  const [summary] = await Promise.all([migration.result, incoming.result]);
  expect([summary.rawBytes, source.running, destination.running]).toEqual([0, false, true]);
  expect([memory.allocatedBytes(), block.view(63 * PAGE, 1)[0], only(theirs).view(0, 1)[0]]).toEqual([before, 9, 9]);
});

test('no block of a memory is closed while a migration uses one of them', async () => {
  const memory = createGuestMemory({ blocks: [BLOCK, { ...BLOCK, id: 'more', guestPhysicalAddress: 2 ** 30 }] });
  const [first, second] = memory.blocks as [MappedRamBlock, MappedRamBlock];
  const part = vmOf(memory);
  const vm = { ...part, memory: { pageSize: memory.pageSize, blocks: [second] }, running: true };
  const migration = migrate(vm, memoryLink().connector, { connectTimeoutMs: 60_000 });
  expect(() => memory.close()).toThrow(expect.objectContaining({ code: 'GODWIT_CLAIMED' }));
  expect([first.view(0, 1).length, second.view(0, 1).length]).toEqual([1, 1]);
  migration.cancel();
  await Promise.allSettled([migration.result]);
  await claimOf(vm).free;
  memory.close();
});

test('memory of a migration under way is not unmapped, nor declared otherwise; abandon may', async () => {
  const { memory, block } = created();
  const theirs = createGuestMemory({ blocks: [BLOCK] });
  const [source, destination] = [vmOf(memory), vmOf(theirs)];
  source.running = true;
  destination.abandon = async () => theirs.close();
  const link = memoryLink();
  const incoming = receive(link.listener, { prepare: () => destination });
  const migration = migrate(source, link.connector, { pauseBeforeSwitchover: true });
  const held = new Promise<void>((resolve) =>
    migration.subscribe((event) => {
      if (event.type === 'state' && event.state === 'pre-switchover') resolve();
    }),
  );
  const warnings: string[] = [];
  incoming.subscribe((event) => void (event.type === 'warning' && warnings.push(event.message)));
  await held;
  const claimed = expect.objectContaining({
    code: 'GODWIT_CLAIMED',
    message: expect.stringContaining(`migration ${migration.id}`),
  });
  expect(() => memory.close()).toThrow(claimed);
  expect(() => theirs.close()).toThrow(claimed);
  expect(() => block.close()).toThrow(claimed);
  expect(() => {
    block.shared = true;
  }).toThrow(claimed);
  expect([block.shared, block.view(0, 1).length, only(theirs).view(0, 1).length]).toEqual([undefined, 1, 1]);
  migration.cancel();
  await Promise.allSettled([migration.result, incoming.result]);
  expect([warnings, only(theirs).identity]).toEqual([[], undefined]);
  await claimOf(source).free;
  memory.close();
});
