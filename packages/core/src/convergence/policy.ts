import type { Decision, RoundRecord } from '../round-record.js';

/** A round that was sent, and the prediction after it. */
export type RoundOutcome = Omit<RoundRecord, 'decision'>;

export interface PolicyInput {
  readonly outcome: RoundOutcome;
  /** Rounds before this one, oldest first; the last 1,000 at most. */
  readonly history: readonly RoundRecord[];
  readonly downtimeLimitMs: number;
  readonly elapsedMs: number;
  /** Number of switchovers that were given up since the guest would have been down for too long. */
  readonly overruns: number;
  /** How long the destination has been waited for to be prepared, in milliseconds; 0 while it is. */
  readonly unpreparedMs: number;
}

/** Number of overruns after which the policies here act as if their cap were reached. */
export const PATIENCE = 3;

/**
 * A convergence policy: a pure function of the rounds so far. `undefined` means "no opinion", so that policies compose with
 * `firstOpinion`; without any opinion another round is sent.
 *
 * @example
 * const policy = firstOpinion(withinDowntimeLimit, timeBudget(60_000, 'abort'));
 * migrate(vm, connector, { policy, downtimeLimitMs: 100 });
 */
export type ConvergencePolicy = (input: PolicyInput) => Decision | undefined;

/**
 * Switches over when the predicted downtime is within the limit, and also when nothing is dirty: further rounds cannot lower the
 * prediction then (QEMU, which counts RAM alone, does the same). No opinion after three overruns.
 */
export const withinDowntimeLimit: ConvergencePolicy = ({ outcome, downtimeLimitMs, overruns }) => {
  // The predictions were wrong three times: another policy decides, or the migration is aborted.
  if (overruns >= PATIENCE) return undefined;
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

/**
 * After `rounds` rounds, counted over the whole migration, or after three overruns: switches over whatever the downtime, or aborts.
 */
export function roundCap(rounds: number, action: 'switchover' | 'abort'): ConvergencePolicy {
  return ({ outcome, overruns }) => {
    if (outcome.round >= rounds) return atAnyPrice(action, `the cap of ${rounds} rounds is reached`);
    return overruns >= PATIENCE ? atAnyPrice(action, outOfPatience(overruns)) : undefined;
  };
}

/** After `ms` milliseconds, or after three overruns: switches over whatever the downtime, or aborts. */
export function timeBudget(ms: number, action: 'switchover' | 'abort'): ConvergencePolicy {
  return ({ elapsedMs, overruns }) => {
    if (elapsedMs >= ms) return atAnyPrice(action, `the time budget of ${ms} ms is used up`);
    return overruns >= PATIENCE ? atAnyPrice(action, outOfPatience(overruns)) : undefined;
  };
}

function atAnyPrice(action: 'switchover' | 'abort', reason: string): Decision {
  return action === 'switchover' ? { action, force: true, reason } : { action, reason };
}

function outOfPatience(overruns: number): string {
  return `${overruns} switchovers were given up since the guest would have been down for too long`;
}

/** Makes a policy that decides as the first of `policies` that has an opinion. */
export function firstOpinion(...policies: readonly ConvergencePolicy[]): ConvergencePolicy {
  return (input) => {
    for (const policy of policies) {
      const decision = policy(input);
      if (decision !== undefined) return decision;
    }
    return undefined;
  };
}
