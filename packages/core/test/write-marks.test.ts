import { DirtyBitmaps, type DirtyTracker, SoftwareTracker, WriteMarks } from '@godwit/core';
import { BufferMemory } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';

const PAGE = 4096;
const PAGES = 70;

function memoryOf(pages = PAGES): BufferMemory {
  return new BufferMemory([{ id: 'ram', guestPhysicalAddress: 0, byteLength: pages * PAGE }]);
}

async function harvested(tracker: DirtyTracker, memory: BufferMemory): Promise<number[]> {
  const into = new DirtyBitmaps(memory);
  await tracker.harvest(into);
  return Array.from({ length: into.at(0).pageCount }, (_, page) => page).filter((page) => into.at(0).has(page));
}

test('marks are harvested once, between start and stop, whoever made them', async () => {
  const memory = memoryOf();
  const tracker = new SoftwareTracker(memory);
  const elsewhere = new WriteMarks(tracker.marks.storage);
  elsewhere.mark(0, 0, PAGE);
  await tracker.start();
  expect(await harvested(tracker, memory)).toEqual([]);
  tracker.mark(0, PAGE - 1, 2);
  elsewhere.mark(0, 69 * PAGE, 1);
  elsewhere.mark(0, 0, 0);
  expect(await harvested(tracker, memory)).toEqual([0, 1, 69]);
  expect(await harvested(tracker, memory)).toEqual([]);
  await tracker.stop();
  elsewhere.mark(0, 0, PAGE);
  await tracker.start();
  expect(await harvested(tracker, memory)).toEqual([]);
  expect(() => elsewhere.mark(1, 0, 1)).toThrow(expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT' }));
  expect(() => elsewhere.mark(0, PAGES * PAGE, 1)).toThrow(
    expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT' }),
  );
  await tracker.stop();
});
