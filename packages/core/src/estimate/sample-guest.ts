import { abortable } from '../abortable.js';
import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import { populatedBitmaps } from '../memory/populated-pages.js';
import { rearmAll } from '../tracker/rearm-all.js';
import type { TrackerUnion } from '../tracker/tracker-union.js';
import { WorkingSet, type WorkingSetPoint } from './working-set.js';

/** How long a guest is watched by default, in milliseconds, which is enough for at least one window of 1.6 s. */
export const SAMPLE_MS = 3000;

/** The shortest window, in milliseconds: that of a short round. */
const INTERVAL_MS = 50;
/** The measurements of a guest while its dirty trackers ran. */
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
 * Watches a running guest for `sampleMs` with trackers that were started: harvests every 50 ms, and re-arms the reported pages. No page
 * is read. What the trackers report here is forgotten, so that a migration which follows has to send every page.
 *
 * The guest runs as it would during a migration: each first write to a page after a harvest costs a fault, as in each round. A rate
 * that was measured without write protection, or over one long window, is two to three times too low (KubeVirt's VEP 246).
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
