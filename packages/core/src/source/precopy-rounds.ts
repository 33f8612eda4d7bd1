import { defer, EMPTY, expand, type Observable } from 'rxjs';
import { abortable } from '../abortable.js';
import type { Clock } from '../clock.js';
import type { DowntimeModel } from '../convergence/downtime-model.js';
import { totalDowntime } from '../convergence/downtime-model.js';
import type { ConvergencePolicy, RoundOutcome } from '../convergence/policy.js';
import type { RoundRecord } from '../round-record.js';
import type { Harvest, Harvester } from './harvester.js';
import type { SentRound } from './round-sender.js';

/** A guest that dirties a handful of pages would otherwise keep both sides busy with thousands of rounds a second. */
const SHORTEST_ROUND_MS = 10;

/** Rounds that a policy can look back on. */
const MOST_HISTORY = 1000;

export interface PrecopyParts {
  readonly harvester: Harvester;
  readonly model: DowntimeModel;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly policy: ConvergencePolicy;
  /** Milliseconds; read anew at each decision. */
  readonly downtimeLimitMs: () => number;
  /** Sends the pages of a round and what devices offer meanwhile; resolves when the destination has acknowledged it. */
  readonly send: (round: number, harvest: Harvest) => Promise<SentRound>;
  readonly deviceBytes: () => Promise<number>;
  readonly startedAt: number;
}

export interface PrecopyRound {
  readonly record: RoundRecord;
  /** What the guest wrote meanwhile: the next round, or the beginning of stop-and-copy. */
  readonly pending: Harvest;
}

/**
 * Iterative pre-copy as a stream of rounds: each sends a set of dirty bitmaps while the guest goes on writing, harvests
 * what was written, predicts the downtime and decides. Completes after the first round whose decision is not
 * `continue`; `pending` then holds what is still owed.
 *
 * Cold: each subscription runs the rounds, so subscribe once (a second migration needs fresh bitmaps anyway).
 */
export function precopyRounds(first: Harvest, parts: PrecopyParts): Observable<PrecopyRound> {
  const history: RoundRecord[] = [];
  return defer(() => runRound(1, first, history, parts)).pipe(
    expand((round) =>
      round.record.decision.action === 'continue'
        ? runRound(round.record.round + 1, round.pending, history, parts)
        : EMPTY,
    ),
  );
}

async function runRound(
  round: number,
  harvest: Harvest,
  history: RoundRecord[],
  parts: PrecopyParts,
): Promise<PrecopyRound> {
  const { harvester, model, clock, policy } = parts;
  const start = clock.now();
  const sent = await parts.send(round, harvest);
  // Acknowledged by the destination: only now are these bits forgotten.
  harvester.release(harvest.bitmaps);
  // A tracker that hangs does not keep a migration from being cancelled.
  const pending = await abortable(harvester.harvest(), parts.signal);
  model.sent(sent);
  model.harvested(pending.harvestMs);
  const prediction = model.predict({ dirtyPages: pending.dirtyPages, deviceBytes: await parts.deviceBytes() });
  const outcome: RoundOutcome = {
    round,
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
  const decision = policy({
    outcome,
    history,
    downtimeLimitMs: parts.downtimeLimitMs(),
    elapsedMs: clock.now() - parts.startedAt,
  }) ?? {
    action: 'continue',
    reason:
      `predicted downtime ${outcome.predictedDowntimeMs.toFixed(1)} ms exceeds ` +
      `the limit of ${parts.downtimeLimitMs()} ms`,
  };
  const record: RoundRecord = { ...outcome, decision };
  history.push(record);
  if (history.length > MOST_HISTORY) history.shift();
  const early = SHORTEST_ROUND_MS - outcome.totalMs;
  if (decision.action === 'continue' && early > 0) await clock.sleep(early, parts.signal);
  return { record, pending };
}

/** The part of a round's record that comes from sending it. */
export function describeSent(sent: SentRound) {
  return {
    pages: sent.pages,
    rawBytes: sent.rawBytes,
    wireBytes: sent.wireBytes,
    savedBytes: sent.savedBytes,
    scanMs: sent.scanMs,
    sendMs: sent.sendMs,
    limitMs: sent.limitMs,
  };
}
