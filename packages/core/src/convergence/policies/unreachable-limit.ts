import { inRange } from '../../argument.js';
import type { ConvergencePolicy, PolicyInput } from '../policy.js';
import { completedRounds, endedMsAgo } from './completed-rounds.js';
import { checkEnd, type EndOfPatience, endOfPatience } from './end-of-patience.js';

/**
 * Ends patience when for `ms` milliseconds, at every round's end, no round could have reached the limit: what is not RAM (pausing,
 * devices, loading, resuming) takes longer than `downtimeLimitMs` by itself. The migration has said so by the event
 * `limit-unreachable`; within `ms` somebody may raise the limit with `adjust`, and the prediction may become better.
 *
 * @param ms milliseconds, or a function that returns them
 * @example
 * const policy = firstOpinion(withinDowntimeLimit, unreachableLimit(30_000, 'abort'));
 */
export function unreachableLimit(ms: number | ((input: PolicyInput) => number), end: EndOfPatience): ConvergencePolicy {
  if (typeof ms === 'number') inRange('unreachableLimit: ms', ms, 0);
  checkEnd('unreachableLimit', end);
  return function unreachableLimit(input) {
    const { moment, fixedDowntimeMs, downtimeLimitMs } = input;
    if (moment !== 'round-end' || !(fixedDowntimeMs > downtimeLimitMs)) return undefined;
    const rounds = completedRounds(input);
    const reached = rounds.findLastIndex(
      ({ predictedDowntimeMs, prediction }) => predictedDowntimeMs - prediction.ramMs <= downtimeLimitMs,
    );
    // The time of the first round is not counted, since nothing could be decided before its end.
    const since = endedMsAgo(input, rounds, Math.max(0, reached));
    if (since < (typeof ms === 'number' ? ms : ms(input))) return undefined;
    return endOfPatience(
      end,
      `no round can reach the downtime limit of ${downtimeLimitMs} ms: without any RAM the guest would be down for ` +
        `${fixedDowntimeMs.toFixed(1)} ms`,
      input,
    );
  };
}
