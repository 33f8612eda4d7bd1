import type { Decision } from '../../round-record.js';
import { type ConvergencePolicy, PATIENCE, type PolicyInput } from '../policy.js';

/**
 * Decides to switch over when the predicted downtime is within `limitMs`; the decision carries that limit when it is not the migration's
 * own. In the middle of a round the rule has an opinion only when a limit was changed: a round that is sent to its end leaves less for the
 * pause. After three overruns the rule has no opinion: another policy decides, or the migration is aborted.
 */
export function switchoverWithin(input: PolicyInput, limitMs: number): Decision | undefined {
  const { moment, outcome, downtimeLimitMs, overruns } = input;
  if (moment === 'in-round' || overruns >= PATIENCE) return undefined;
  // In the first moments of round 1 nothing is known of the link.
  if (moment === 'adjusted' && outcome.linkBytesPerSecond === 0) return undefined;
  const predicted = outcome.predictedDowntimeMs;
  if (!(predicted <= limitMs)) return undefined;
  const reason = `predicted downtime ${predicted.toFixed(1)} ms is within the limit of ${Number(limitMs.toFixed(1))} ms`;
  if (limitMs === downtimeLimitMs) return { action: 'switchover', reason };
  return { action: 'switchover', reason, downtimeLimitMs: limitMs };
}

/** Switches over once the predicted downtime is within `MigrateOptions.downtimeLimitMs`, and never above it. */
export const strictlyWithinDowntimeLimit: ConvergencePolicy = (input) => switchoverWithin(input, input.downtimeLimitMs);

/**
 * Switches over once the predicted downtime is within `MigrateOptions.downtimeLimitMs`, and also when nothing is dirty, unless the pause
 * may not last even as long as the lower end of the prediction (`pauseLimitMs`): with nothing dirty, further rounds do not lower the
 * prediction (QEMU, which counts RAM alone, also switches over when nothing is dirty).
 */
export const withinDowntimeLimit: ConvergencePolicy = (input) => {
  const within = switchoverWithin(input, input.downtimeLimitMs);
  if (within !== undefined) return within;
  const { moment, outcome, downtimeLimitMs, pauseLimitMs, overruns } = input;
  if (moment !== 'round-end' || outcome.newlyDirtyPages !== 0 || overruns >= PATIENCE) return undefined;
  const predicted = outcome.predictedDowntimeMs;
  const [least] = outcome.predictedDowntimeRangeMs;
  // A pause that is too long even at the lower end of the prediction would only be given up.
  if (!(predicted > downtimeLimitMs && least <= pauseLimitMs)) return undefined;
  return {
    action: 'switchover',
    reason:
      `predicted downtime ${predicted.toFixed(1)} ms exceeds the limit of ${downtimeLimitMs} ms, ` +
      'but nothing is dirty: no round can lower it',
  };
};
