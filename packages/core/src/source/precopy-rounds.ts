import { defer, EMPTY, expand, type Observable } from 'rxjs';
import { totalDowntime } from '../convergence/downtime-model.js';
import type { RoundOutcome } from '../convergence/policy.js';
import type { Decision } from '../round-record.js';
import { pauses } from './attempt-limits.js';
import type { Switchover } from './decide.js';
import type { Harvest } from './harvester.js';
import type { PrecopyRound } from './precopy-round.js';
import type { SentRound } from './round-sender.js';
import { describeSent } from './sent-rounds.js';
import type { SourceContext } from './source-context.js';

export interface PrecopyParts {
  readonly context: SourceContext;
  readonly decide: Switchover;
  /**
   * Sends the pages of a round, and what devices offer if `offer`; resolves when the destination has acknowledged it. When `cut`
   * aborts, the round ends early, and the bits of the pages that were not sent are left in the harvest.
   */
  readonly send: (
    harvest: Harvest,
    offer: boolean,
    cut: AbortSignal,
    onRoundTrip: (ms: number) => void,
  ) => Promise<SentRound>;
}

/**
 * Iterative pre-copy as a stream of rounds: each sends a set of dirty bitmaps while the guest goes on writing, harvests
 * what was written, predicts the downtime and decides. Completes after the first round whose decision is
 * a switchover or an abort; `pending` then holds what is still owed.
 *
 * The stream is cold: each subscription runs the rounds, so subscribe once.
 */
export function precopyRounds(first: Harvest, parts: PrecopyParts): Observable<PrecopyRound> {
  return defer(() => runRound(first, parts)).pipe(
    // The record is known to everybody before the wait for the next round begins.
    expand((round) => (isLast(round.record.decision) ? EMPTY : defer(() => nextRound(round, parts)))),
  );
}

async function runRound(harvest: Harvest, { context, decide, send }: PrecopyParts): Promise<PrecopyRound> {
  const { harvester, model, options, session, devices, meter, watch, throttle } = context;
  const { clock } = options;
  const start = clock.now();
  const throttled = throttle.mark();
  const cut = watch.roundBegins(decide);
  const sent = await send(harvest, decide.offersDevices, cut, (ms) => model.roundTrip(ms)).finally(() =>
    watch.roundEnds(),
  );
  // The destination has acknowledged the round: only now may its bits be forgotten. Of a round that ended early some are left.
  const leftPages = cut.aborted ? harvest.bitmaps.count() : 0;
  if (leftPages === 0) harvester.release(harvest.bitmaps);
  // With the signal, a migration can be cancelled while a tracker hangs.
  const pending = await harvester.harvest(session.signal, leftPages === 0 ? undefined : harvest.bitmaps);
  meter.harvested(pending.dirtyPages);
  model.sent(sent);
  model.harvested(pending.harvestMs);
  const sizes = await devices.sizes(session.signal);
  const deviceBytes = sizes.reduce((sum, bytes) => sum + bytes, 0);
  const prediction = model.predict({ dirtyPages: pending.pagesWhenStopped, deviceBytes });
  const outcome: RoundOutcome = {
    round: meter.round,
    phase: 'pre-copy',
    dirtyPages: harvest.dirtyPages,
    ...describeSent(sent),
    harvestMs: harvest.harvestMs,
    totalMs: clock.now() - start,
    linkBytesPerSecond: model.linkBytesPerSecond,
    throttle: throttle.meanSince(throttled),
    newlyDirtyPages: pending.dirtyPages,
    trackers: pending.trackers,
    dirtyPagesPerSecond: ((pending.dirtyPages - leftPages) / Math.max(pending.sinceMs, 0.001)) * 1000,
    predictedDowntimeMs: totalDowntime(prediction),
    prediction,
  };
  const decision = await decide.after(outcome);
  return { record: { ...outcome, decision }, pending };
}

async function nextRound({ record, pending }: PrecopyRound, parts: PrecopyParts): Promise<PrecopyRound> {
  await parts.decide.untilNext(record);
  return runRound(pending, parts);
}

function isLast(decision: Decision): boolean {
  return pauses(decision) || decision.action === 'abort';
}
