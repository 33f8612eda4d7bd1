import type { Forecast } from '../convergence/downtime-model.js';
import type { RoundOutcome } from '../convergence/policy.js';
import { noPages } from '../round-record.js';
import { NO_FORECAST } from './downtime-terms.js';
import type { SourceContext } from './source-context.js';

/** The last complete round, with the pages that are owed now. */
export function outcomeNow(
  { vm, meter, model, harvester, devices }: SourceContext,
  bytesPerSecond: number | undefined,
): RoundOutcome {
  const last = meter.lastPrecopy;
  const dirtied = ((last?.dirtyPagesPerSecond ?? 0) * harvester.sinceMs) / 1000;
  const owed = meter.round === 0 ? allPagesOf(vm.memory) : meter.pagesOwed;
  // Most of the pages that the round leaves for later are dirtied again meanwhile.
  const newlyDirtyPages = owed + Math.max(Math.round(dirtied), meter.pagesDeferred);
  const forecast = model.forecast({
    dirtyPages: newlyDirtyPages,
    deviceBytes: devices.reports.outlook.bytes,
    ...(bytesPerSecond !== undefined && { bytesPerSecond }),
  });
  return {
    ...(last ?? NO_ROUND),
    round: meter.roundsEnded,
    linkBytesPerSecond: model.linkBytesPerSecond || (bytesPerSecond ?? 0),
    newlyDirtyPages,
    ...forecast,
  };
}

/** The last complete round, with the pages that are owed some time after it, before another round has begun. */
export function outcomeSince(context: SourceContext, last: RoundOutcome): RoundOutcome {
  const newlyDirtyPages = last.newlyDirtyPages + dirtiedSince(context, last);
  return { ...last, newlyDirtyPages, ...forecastNow(context, newlyDirtyPages) };
}

/** The same round with the present prediction; `pages` would have been left at its end if the guest had been paused then. */
export function predictedAgain(context: SourceContext, last: RoundOutcome, pages: number): RoundOutcome {
  return { ...last, ...forecastNow(context, pages + dirtiedSince(context, last)) };
}

function dirtiedSince({ harvester }: SourceContext, { dirtyPagesPerSecond }: RoundOutcome): number {
  return Math.round((dirtyPagesPerSecond * harvester.sinceMs) / 1000);
}

function forecastNow({ model, devices }: SourceContext, dirtyPages: number): Forecast {
  return model.forecast({ dirtyPages, deviceBytes: devices.reports.outlook.bytes });
}

function allPagesOf({ blocks, pageSize }: SourceContext['vm']['memory']): number {
  return blocks.reduce((sum, { byteLength }) => sum + byteLength / pageSize, 0);
}

/** The outcome before the first round is complete. */
const NO_ROUND: RoundOutcome = {
  round: 0,
  phase: 'pre-copy',
  dirtyPages: 0,
  deferredPages: 0,
  pages: noPages(),
  rawBytes: 0,
  wireBytes: 0,
  deviceBytes: 0,
  savedBytes: 0,
  harvestMs: 0,
  scanMs: 0,
  sendMs: 0,
  limitMs: 0,
  totalMs: 0,
  endedAtMs: 0,
  throttle: 0,
  linkBytesPerSecond: 0,
  newlyDirtyPages: 0,
  trackers: [],
  dirtyPagesPerSecond: 0,
  ...NO_FORECAST,
};
