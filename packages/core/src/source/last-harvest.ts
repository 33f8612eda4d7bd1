import { totalDowntime } from '../convergence/downtime-model.js';
import { GodwitError } from '../errors.js';
import { downtimeLimitOf } from './attempt-limits.js';
import type { Harvest } from './harvester.js';
import type { PauseBound } from './pause-bound.js';
import type { PrecopyRound, SourceContext } from './source-context.js';

/**
 * Predicts the downtime again after the last harvest, before a device is saved, and throws `GODWIT_SWITCHOVER_OVERRAN` when it
 * exceeds the downtime limit of the attempt: the guest has written more before the pause than was predicted. If the prediction exceeded the limit
 * before the pause (nothing was dirty, so that no round could lower it), it is compared with the bound of the pause instead.
 */
export function checkLastHarvest(
  { model, options }: SourceContext,
  bound: PauseBound,
  { record, pending }: PrecopyRound,
  last: Harvest,
  force: boolean,
): void {
  // The pages counted before the pause are in the same bitmaps: the difference was written since.
  const burst = Math.max(0, last.dirtyPages - pending.dirtyPages);
  model.burst(burst);
  if (force) return;
  const { deviceMs, loadMs, roundTripMs, resumeMs } = record.prediction;
  const { ramMs } = model.predict({ dirtyPages: last.pagesWhenStopped, deviceBytes: 0, paused: true });
  const expected = totalDowntime({
    pauseMs: 0,
    harvestMs: pending.harvestMs + bound.elapsedMs,
    ...{ ramMs, deviceMs, loadMs, roundTripMs, resumeMs },
  });
  const own = downtimeLimitOf(options, record.decision);
  const limitMs = record.predictedDowntimeMs <= own ? own : bound.limitMs;
  if (expected <= limitMs) return;
  throw new GodwitError(
    'GODWIT_SWITCHOVER_OVERRAN',
    `${last.pagesWhenStopped} pages are left with the guest paused, ${burst} more than were predicted: it would be down for ` +
      `${expected.toFixed(0)} ms, and the limit is ${limitMs} ms. The guest runs on at the source, and pre-copy goes on`,
  );
}
