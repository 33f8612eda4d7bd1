import { DirtyBitmaps, type DirtyTracker, type GuestMemory } from '@godwit/core';

/**
 * A defect on purpose: a dirty log that is never re-armed. It reports only the first write to a page, as if the page stayed writable
 * once its write protection was removed. The check of the sweep guest must find it.
 */
export function neverRearmed(tracker: DirtyTracker, memory: GuestMemory): DirtyTracker {
  const reported = new DirtyBitmaps(memory);
  return {
    name: tracker.name,
    async start() {
      reported.clearAll();
      await tracker.start();
    },
    async harvest(into) {
      const fresh = new DirtyBitmaps(memory);
      await tracker.harvest(fresh);
      fresh.andNot(reported);
      reported.or(fresh);
      into.or(fresh);
    },
    stop: () => tracker.stop(),
  };
}
