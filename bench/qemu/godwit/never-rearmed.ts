import { DirtyBitmaps, type DirtyTracker, type GuestMemory } from '@godwit/core';

/**
 * A defect on purpose: a dirty log that is never re-armed. It reports the first write to a page and none after it, as a page
 * does that stays writable once its write protection has been lifted. The check of the sweep guest must notice.
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
