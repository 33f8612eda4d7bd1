import { defer, EMPTY, expand, type Observable } from 'rxjs';
import { totalDowntime } from '../convergence/downtime-model.js';
import type { RoundOutcome } from '../convergence/policy.js';
import type { RoundRecord } from '../round-record.js';
import type { Switchover } from './decide.js';
import type { Harvest } from './harvester.js';
import type { PrecopyRound } from './precopy-round.js';
import type { SentRound } from './round-sender.js';
import { describeSent } from './sent-rounds.js';
import type { SourceContext } from './source-context.js';

export interface PrecopyParts {
  readonly context: SourceContext;
  readonly decide: Switchover;
  /** Sends the pages of a round, and the devices' state if `offer`; resolves when the destination has acknowledged both. */
  readonly send: (harvest: Harvest, offer: boolean, onRoundTrip: (ms: number) => void) => Promise<SentRound>;
}

/**
 * Iterative pre-copy as a stream of rounds: each sends a set of dirty bitmaps while the guest goes on writing, harvests
 * what was written, predicts the downtime and decides. Completes after the first round whose decision is not
 * `continue`; `pending` then holds what is still owed.
 *
 * The stream is cold: each subscription runs the rounds, so subscribe once.
 */
export function precopyRounds(first: Harvest, parts: PrecopyParts): Observable<PrecopyRound> {
  return defer(() => runRound(first, parts)).pipe(
    expand((round) => (round.record.decision.action === 'continue' ? runRound(round.pending, parts) : EMPTY)),
  );
}

async function runRound(harvest: Harvest, { context, decide, send }: PrecopyParts): Promise<PrecopyRound> {
  const { harvester, model, options, session, devices, meter } = context;
  const { clock } = options;
  const start = clock.now();
  const sent = await send(harvest, decide.offersDevices, (ms) => model.roundTrip(ms));
  // The destination has acknowledged the round: only now may its bits be forgotten.
  harvester.release(harvest.bitmaps);
  // With the signal, a migration can be cancelled while a tracker hangs.
  const pending = await harvester.harvest(session.signal);
  model.sent(sent);
  model.harvested(pending.harvestMs);
  const sizes = await devices.sizes(session.signal);
  const deviceBytes = sizes.reduce((sum, bytes) => sum + bytes, 0);
  const prediction = model.predict({ dirtyPages: pending.dirtyPages, deviceBytes });
  const outcome: RoundOutcome = {
    round: meter.round,
    phase: 'pre-copy',
    dirtyPages: harvest.dirtyPages,
    ...describeSent(sent),
    harvestMs: harvest.harvestMs,
    totalMs: clock.now() - start,
    linkBytesPerSecond: model.linkBytesPerSecond,
    newlyDirtyPages: pending.dirtyPages,
    trackers: pending.trackers,
    dirtyPagesPerSecond: (pending.dirtyPages / Math.max(pending.sinceMs, 0.001)) * 1000,
    predictedDowntimeMs: totalDowntime(prediction),
    prediction,
  };
  const decision = await decide.after(outcome);
  const record: RoundRecord = { ...outcome, decision };
  await decide.untilNext(record);
  return { record, pending };
}
