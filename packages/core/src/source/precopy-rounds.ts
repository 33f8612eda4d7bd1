import { defer, EMPTY, expand, type Observable } from 'rxjs';
import { totalDowntime } from '../convergence/downtime-model.js';
import type { RoundOutcome } from '../convergence/policy.js';
import type { RoundRecord } from '../round-record.js';
import type { Switchover } from './decide.js';
import type { Harvest } from './harvester.js';
import type { PrecopyRound } from './precopy-round.js';
import type { SentRound } from './round-sender.js';
import { outcomeSince, RoundWatch } from './round-watch.js';
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
  const wire = meter.wire();
  const watch = new RoundWatch(context, decide);
  const hot = context.hotPages?.takeFrom(harvest.bitmaps, harvest.dirtyPages);
  meter.deferredPages = hot?.pages ?? 0;
  const sending = hot === undefined ? harvest : { ...harvest, dirtyPages: harvest.dirtyPages - hot.pages };
  const sent = await send(sending, decide.offersDevices, watch.cut, (ms) => model.roundTrip(ms)).finally(() =>
    watch.end(),
  );
  // The destination has acknowledged the round: only now may its bits be forgotten. Of a round that ended early some are left.
  const leftPages = watch.cut.aborted ? harvest.bitmaps.count() : 0;
  // With the signal, a migration can be cancelled while a tracker hangs.
  const fresh = await harvester.harvest(session.signal);
  context.hotPages?.add(fresh.bitmaps);
  if (leftPages > 0) fresh.bitmaps.or(harvest.bitmaps);
  harvester.release(harvest.bitmaps);
  if (hot !== undefined) fresh.bitmaps.or(hot.bitmaps);
  const again = leftPages > 0 || hot !== undefined;
  const owedPages = again ? fresh.bitmaps.count() : fresh.dirtyPages;
  const pending = {
    ...fresh,
    dirtyPages: owedPages,
    pagesWhenStopped: owedPages + fresh.pagesWhenStopped - fresh.dirtyPages,
  };
  const newlyDirtyPages = pending.dirtyPages - leftPages;
  model.sent(sent);
  model.harvested(pending.harvestMs);
  const sizes = await devices.sizes(session.signal);
  const deviceBytes = sizes.reduce((sum, bytes) => sum + bytes, 0);
  const prediction = model.predict({ dirtyPages: pending.pagesWhenStopped, deviceBytes });
  const outcome: RoundOutcome = {
    round: meter.round,
    phase: 'pre-copy',
    dirtyPages: sending.dirtyPages,
    deferredPages: meter.deferredPages,
    ...describeSent(sent, wire.span),
    harvestMs: harvest.harvestMs,
    totalMs: clock.now() - start,
    linkBytesPerSecond: model.linkBytesPerSecond,
    newlyDirtyPages,
    trackers: pending.trackers,
    dirtyPagesPerSecond: (fresh.dirtyPages / Math.max(pending.sinceMs, 0.001)) * 1000,
    predictedDowntimeMs: totalDowntime(prediction),
    prediction,
  };
  const decision = await decide.after(outcome);
  const record: RoundRecord = { ...outcome, decision };
  await decide.untilNext(record, () => outcomeSince(context, record));
  return { record, pending };
}
