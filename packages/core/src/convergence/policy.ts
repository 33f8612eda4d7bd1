import type { Decision, RoundRecord } from '../round-record.js';

/** What a policy judges: a round that was sent, and what is pending now. */
export type RoundOutcome = Omit<RoundRecord, 'decision'>;

export interface PolicyInput {
  readonly outcome: RoundOutcome;
  /** Rounds before this one, oldest first; the last 1,000 at most. */
  readonly history: readonly RoundRecord[];
  readonly downtimeLimitMs: number;
  readonly elapsedMs: number;
}

/**
 * A convergence policy: a pure function of what happened. `undefined` means "no opinion", so that policies compose
 * with `firstOpinion`; when nobody has one, another round is sent.
 */
export type ConvergencePolicy = (input: PolicyInput) => Decision | undefined;

/**
 * Switch over when the predicted downtime is within the limit, and also when nothing is dirty: what is left of the
 * prediction then is the same after any number of rounds (QEMU, which counts RAM alone, does the same).
 */
export const withinDowntimeLimit: ConvergencePolicy = ({ outcome, downtimeLimitMs }) => {
  const predicted = `predicted downtime ${outcome.predictedDowntimeMs.toFixed(1)} ms`;
  if (outcome.predictedDowntimeMs <= downtimeLimitMs) {
    return { action: 'switchover', reason: `${predicted} is within the limit of ${downtimeLimitMs} ms` };
  }
  if (outcome.newlyDirtyPages === 0) {
    return {
      action: 'switchover',
      reason: `${predicted} exceeds the limit of ${downtimeLimitMs} ms, but nothing is dirty: no round can lower it`,
    };
  }
  return undefined;
};

/** After `rounds` rounds: switch over whatever the downtime, or give up. */
export function roundCap(rounds: number, action: 'switchover' | 'abort'): ConvergencePolicy {
  return ({ outcome }) =>
    outcome.round >= rounds ? { action, reason: `the cap of ${rounds} rounds is reached` } : undefined;
}

/** After `ms` milliseconds: switch over whatever the downtime, or give up. */
export function timeBudget(ms: number, action: 'switchover' | 'abort'): ConvergencePolicy {
  return ({ elapsedMs }) =>
    elapsedMs >= ms ? { action, reason: `the time budget of ${ms} ms is used up` } : undefined;
}

/** The first policy that has an opinion decides. */
export function firstOpinion(...policies: readonly ConvergencePolicy[]): ConvergencePolicy {
  return (input) => {
    for (const policy of policies) {
      const decision = policy(input);
      if (decision !== undefined) return decision;
    }
    return undefined;
  };
}
