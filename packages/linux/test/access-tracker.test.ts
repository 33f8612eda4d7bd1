import { DirtyBitmaps } from '@godwit/core';
import { AccessTracker, createGuestMemory, hostSupport, type MappedRamBlock, SharedUserfaultfd } from '@godwit/linux';
import { Uffd, Userfaultfd } from '@godwit/linux/userfaultfd';
import { expect, test } from '@jest/globals';
import { errorOf } from './error-of.js';

/** On any kernel: what it sees is looked at where the kernel has read-write protection. */

const PAGE = 4096;
const { accessProtect } = hostSupport();
const FEATURES = Uffd.UFFD_FEATURE_RWP | Uffd.UFFD_FEATURE_RWP_ASYNC;

test('whether it can be used is what the kernel answers', () => {
  expect(accessProtect.usable).toBe((Userfaultfd.available() & FEATURES) === FEATURES);
});

test('it starts where the kernel has read-write protection, and says which it lacks elsewhere', async () => {
  const memory = createGuestMemory({ blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 64 * PAGE }] });
  const tracker = AccessTracker.forMemory(memory);
  try {
    if (accessProtect.usable) {
      await tracker.start();
      (memory.blocks[0] as MappedRamBlock).view(0, PAGE)[0] = 1;
      const into = new DirtyBitmaps(memory);
      await tracker.sample(into);
      expect(into.at(0).has(0)).toBe(true);
    } else {
      const error = await errorOf(() => tracker.start());
      expect(error).toMatchObject({ code: 'GODWIT_UNSUPPORTED' });
      for (const text of [error.message, accessProtect.reason]) {
        expect(text).toContain('what this one lacks (RWP, RWP_ASYNC)');
        expect(text).toContain('Linux 7.3');
      }
    }
  } finally {
    await tracker.stop();
    memory.close();
  }
});

test('what was refused leaves the range free for others', async () => {
  const memory = createGuestMemory({ blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 64 * PAGE }] });
  const { hostAddress: address, byteLength } = memory.blocks[0] as MappedRamBlock;
  const tracker = AccessTracker.forMemory(memory);
  await tracker.start().catch(() => {});
  await tracker.stop();
  SharedUserfaultfd.join([{ address, byteLength }], 'asynchronous').leave();
  memory.close();
});

test('a sample of a tracker that does not run is refused, and so are ranges that are no whole pages', async () => {
  const memory = createGuestMemory({ blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 64 * PAGE }] });
  const tracker = AccessTracker.forMemory(memory);
  await expect(tracker.sample(new DirtyBitmaps(memory))).rejects.toMatchObject({ code: 'GODWIT_INVALID_STATE' });
  memory.close();
  const ranges = [{ address: 4096n, byteLength: 100, blockIndex: 0, firstPage: 0 }];
  expect(() => new AccessTracker({ ranges })).toThrow(expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT' }));
});
