import { defer, EMPTY, expand, type Observable } from 'rxjs';
import type { RoundOutcome } from '../convergence/policy.js';
import type { Decision } from '../round-record.js';
import { rearmAll } from '../tracker/rearm-all.js';
import { pauses } from './attempt-limits.js';
import type { Switchover } from './decide.js';
import type { Harvest } from './harvester.js';
import { outcomeSince } from './outcome-now.js';
import { describeSent, type SentRound } from './sent-rounds.js';
import type { PrecopyRound, SourceContext } from './source-context.js';

export interface PrecopyParts {
  readonly context: SourceContext;
  readonly decide: Switchover;
  /**
   * Sends the owed pages and, if `offer`, the state that devices yield; resolves when the destination has acknowledged them. When `cut`
   * aborts, the round ends early, and pages that were not sent stay in the queue.
   */
  readonly send: (
    dirtyPages: number,
    offer: boolean,
    cut: AbortSignal,
    onRoundTrip: (ms: number) => void,
  ) => Promise<SentRound>;
}

/**
 * Iterative pre-copy as a stream of rounds: each sends the owed pages while the guest goes on writing, harvests the pages that were
 * written, predicts the downtime and decides. Completes after the first round whose decision is a switchover or an abort; `pending` then
 * has the pages that are still owed.
 *
 * The stream is cold: each subscription runs the rounds, so subscribe once.
 */
export function precopyRounds(first: Harvest, parts: PrecopyParts): Observable<PrecopyRound> {
  return defer(() => runRound(first, parts)).pipe(
    // The record is emitted before the wait for the next round begins.
    expand((round) => (isLast(round.record.decision) ? EMPTY : defer(() => nextRound(round, parts)))),
  );
}

async function runRound(harvest: Harvest, { context, decide, send }: PrecopyParts): Promise<PrecopyRound> {
  const { harvester, model, options, session, devices, meter, watch, throttle, tracker, queue, emit } = context;
  const { clock } = options;
  const start = clock.now();
  const throttled = throttle.mark();
  const wire = meter.wire();
  const hot = context.hotPages?.takeFrom(queue.owed, harvest.dirtyPages);
  meter.deferredPages = hot?.pages ?? 0;
  if (hot !== undefined) rearmAll(tracker, hot.bitmaps);
  const dirtyPages = harvest.dirtyPages - meter.deferredPages;
  const cut = watch.roundBegins(decide);
  const sent = await send(dirtyPages, decide.offersDevices, cut, (ms) => model.roundTrip(ms)).finally(() =>
    watch.roundEnds(),
  );
  if (hot !== undefined) queue.owe(hot.bitmaps);
  // With the signal, a migration can be cancelled while a tracker hangs.
  const pending = await harvester.harvest(session.signal);
  context.hotPages?.add(pending.fresh);
  meter.harvested(pending.dirtyPages);
  model.sent(sent);
  model.harvested(pending.harvestMs);
  model.dirtied(pending.freshPages, pending.sinceMs);
  const harvestedAt = clock.now();
  await devices.reports.ask(session.signal);
  for (const message of devices.reports.takeUntold()) emit({ type: 'warning', code: 'GODWIT_UNSUPPORTED', message });
  model.devices = devices.reports.outlook;
  const forecast = model.forecast({
    dirtyPages: pending.pagesWhenStopped,
    deviceBytes: devices.reports.outlook.bytes,
  });
  const outcome: RoundOutcome = {
    round: meter.round,
    phase: 'pre-copy',
    dirtyPages,
    deferredPages: meter.deferredPages,
    ...describeSent(sent, wire.span),
    harvestMs: harvest.harvestMs,
    totalMs: clock.now() - start,
    endedAtMs: meter.elapsedMs,
    linkBytesPerSecond: model.linkBytesPerSecond,
    throttle: throttle.meanSince(throttled),
    newlyDirtyPages: pending.dirtyPages,
    trackers: pending.trackers,
    dirtyPagesPerSecond: (pending.freshPages / Math.max(pending.sinceMs, 0.001)) * 1000,
    ...forecast,
  };
  const judged = await decide.after(outcome, pending.pagesWhenStopped);
  const { decision } = judged;
  model.decided(clock.now() - harvestedAt);
  if (!isLast(decision)) context.rehearsal.begin();
  return { record: { ...judged.outcome, decision }, pending };
}

async function nextRound({ record, pending }: PrecopyRound, parts: PrecopyParts): Promise<PrecopyRound> {
  await parts.decide.untilNext(record, () => outcomeSince(parts.context, record));
  return runRound(pending, parts);
}

function isLast(decision: Decision): boolean {
  return pauses(decision) || decision.action === 'abort';
}
