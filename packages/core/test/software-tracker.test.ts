import { DirtyBitmaps, SoftwareTracker } from '@godwit/core';
import { BufferMemory } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import { BLOCKS, PAGE } from './toy-migration.js';

test('a tracker that was not started, or was stopped, throws when it is harvested: nothing dirty would be a lie', async () => {
  const memory = new BufferMemory(BLOCKS);
  const tracker = new SoftwareTracker(memory, 'virtio');
  const into = new DirtyBitmaps(memory);
  const refused = { code: 'GODWIT_INVALID_STATE', message: expect.stringContaining('"virtio" was not started') };
  await expect(tracker.harvest(into)).rejects.toMatchObject(refused);
  await tracker.start();
  tracker.mark(0, 3 * PAGE, 1);
  await tracker.harvest(into);
  expect(into.count()).toBe(1);
  await tracker.stop();
  await expect(tracker.harvest(into)).rejects.toMatchObject(refused);
});
