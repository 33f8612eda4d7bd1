import { fixedDowntime } from '../convergence/downtime-model.js';
import type { PolicyInput, PolicyMoment, RoundOutcome } from '../convergence/policy.js';
import type { Decision, RoundRecord } from '../round-record.js';
import { askPolicy } from './ask-policy.js';
import { pauseLimitOf } from './attempt-limits.js';
import type { SourceContext } from './source-context.js';
import { stateFits } from './tell-missing.js';

/**
 * The present opinion of the migration's policy; `undefined`: no opinion. A throttle or a bandwidth is carried out before this function
 * returns. The shadow policies are asked first, with the same input. Throws as `askPolicy` does.
 */
export function opinion(
  context: SourceContext,
  moment: PolicyMoment,
  outcome: RoundOutcome,
  history: readonly RoundRecord[],
): Decision | undefined {
  const { options, throttle, shadows, reach, session, meter } = context;
  reach.check(outcome, options.downtimeLimitMs);
  // Shadow policies are not asked before round 1: no switchover can begin then, and there is no prediction.
  if (meter.round > 0) shadows.ask(() => inputOf(context, moment, outcome, history), throttle.unavailable);
  // A subscriber may cancel the migration when it receives a shadow's report.
  session.signal.throwIfAborted();
  const decision = askPolicy(options.policy, inputOf(context, moment, outcome, history), throttle.unavailable);
  if (decision !== undefined) carryOut(context, decision);
  return decision;
}

/** Each call makes a new input: a policy is the embedder's code, and changing its input must not change the engine. */
function inputOf(
  context: SourceContext,
  moment: PolicyMoment,
  outcome: RoundOutcome,
  history: readonly RoundRecord[],
): PolicyInput {
  const { vm, options, meter, model, attempts, readiness, throttle, postcopyAgreed } = context;
  const { downtimeLimitMs, timeBudgetMs, bandwidthLimit } = options;
  return {
    moment,
    outcome: { ...outcome, prediction: { ...outcome.prediction } },
    history: [...history],
    downtimeLimitMs,
    pauseLimitMs: options.force ? Number.POSITIVE_INFINITY : pauseLimitOf(options),
    fixedDowntimeMs: fixedDowntime(outcome.prediction),
    elapsedMs: meter.elapsedMs,
    timeBudgetMs,
    throttle: throttle.fraction,
    canThrottle: throttle.available,
    canPostcopy: postcopyAgreed && stateFits(context),
    bandwidthLimit,
    pagesPerSecond: model.pagesPerSecond(bandwidthLimit),
    pageSize: vm.memory.pageSize,
    overruns: attempts.overruns,
    unpreparedMs: readiness.waitedMs,
  };
}

function carryOut({ throttle, options, limit, emit }: SourceContext, decision: Decision): void {
  if (decision.action === 'throttle') throttle.decide(decision.fraction, decision.reason);
  if (decision.action !== 'bandwidth' || decision.bytesPerSecond === options.bandwidthLimit) return;
  const previous = options.bandwidthLimit;
  const { bytesPerSecond, reason } = decision;
  options.bandwidthLimit = bytesPerSecond;
  limit.bytesPerSecond = bytesPerSecond;
  emit({ type: 'bandwidth', bytesPerSecond, previous, reason });
}
