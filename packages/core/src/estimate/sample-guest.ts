import { abortable } from '../abortable.js';
import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import { PageRunList } from '../memory/page-run.js';
import { populatedBitmaps } from '../memory/populated-pages.js';
import type { TrackerUnion } from '../tracker/tracker-union.js';
import { WorkingSet, type WorkingSetPoint } from './working-set.js';

/** How long a guest is watched by default, in milliseconds: windows of up to 1.6 s are then seen at least once. */
export const SAMPLE_MS = 3000;

/** The shortest window, in milliseconds: that of a short round. */
const INTERVAL_MS = 50;
/** `rearm` takes ranges whose ends are multiples of this many pages. */
const REARM_UNIT = 64;

/** What a guest was seen to do while its dirty trackers ran. */
export interface GuestSample {
  readonly ramBytes: number;
  readonly populatedBytes: number;
  readonly pageSize: number;
  readonly sampledMs: number;
  /** Distinct pages written in windows of 50, 100, 200, ... ms, the shortest first. */
  readonly workingSet: readonly WorkingSetPoint[];
  /** The mean time of a harvest, in milliseconds. */
  readonly harvestMs: number;
}

/**
 * Watches a running guest for `sampleMs` with trackers that were started: harvests every 50 ms, and re-arms what was reported. Reads no
 * page. What the trackers report here is forgotten, so that a migration which follows has to send every page.
 *
 * The guest is watched as it runs during a migration: each first write to a page after a harvest costs it a fault, as in each round. A
 * rate that was measured without write protection, or over one long window, is two to three times too low (KubeVirt's VEP 246).
 */
export async function sampleGuest(
  memory: GuestMemory,
  tracker: TrackerUnion,
  { clock, sampleMs, signal }: { readonly clock: Clock; readonly sampleMs: number; readonly signal: AbortSignal },
): Promise<GuestSample> {
  const workingSet = new WorkingSet(memory);
  const start = clock.now();
  let harvests = 0;
  let harvestMs = 0;
  let before = start;
  do {
    await clock.sleep(INTERVAL_MS, signal);
    const bitmaps = workingSet.take();
    const asked = clock.now();
    await abortable(tracker.harvest(bitmaps), signal);
    const harvested = clock.now();
    rearmAll(tracker, bitmaps);
    if (tracker.failed) throw lost(tracker);
    harvestMs += harvested - asked;
    harvests++;
    workingSet.add(bitmaps, harvested - before);
    before = harvested;
  } while (clock.now() - start < sampleMs);
  const populated = new DirtyBitmaps(memory);
  await populatedBitmaps(memory, populated, clock, signal);
  return {
    ramBytes: memory.blocks.reduce((sum, { byteLength }) => sum + byteLength, 0),
    populatedBytes: populated.count() * memory.pageSize,
    pageSize: memory.pageSize,
    sampledMs: before - start,
    workingSet: workingSet.points,
    harvestMs: harvestMs / harvests,
  };
}

function lost({ name }: TrackerUnion): GodwitError {
  return new GodwitError(
    'GODWIT_TRACKER_FAILED',
    `a dirty tracker (${name}) failed while the guest was watched: nobody knows what the guest has written. Try again, or mend the tracker`,
  );
}

/** Re-arms every page that was reported: without it a tracker with deferred re-arm reports the page at each harvest. */
function rearmAll(tracker: TrackerUnion, bitmaps: DirtyBitmaps): void {
  for (const [blockIndex, bitmap] of bitmaps.blocks.entries()) {
    const runs = bitmap.runs(new PageRunList());
    let end = 0;
    for (let i = 0; i < runs.length; i++) {
      const first = Math.max(end, runs.firstPage(i) - (runs.firstPage(i) % REARM_UNIT));
      const last = runs.firstPage(i) + runs.runPages(i);
      const stop = Math.min(bitmap.pageCount, last + (-last & (REARM_UNIT - 1)));
      if (stop <= first) continue;
      tracker.rearm(blockIndex, first, stop - first);
      end = stop;
    }
  }
}
