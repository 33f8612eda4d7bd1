import { inRange } from '../../argument.js';
import type { Decision } from '../../round-record.js';
import type { ConvergencePolicy, PolicyInput } from '../policy.js';
import { checkEnd, type EndOfPatience, endOfPatience, outOfPatience } from './end-of-patience.js';

/** Part of the budget that a forced switchover may begin early, so that it ends within the budget. */
const EARLIEST_FORCE = 1 / 4;

/** A budget, and the reason for its length. */
export interface Budget {
  /** For the whole migration, in milliseconds; `undefined` while there is none. */
  readonly ms: number | undefined;
  /** A text for the decision's reason: how a budget that nobody has set was computed. */
  readonly because?: string;
}

/**
 * Ends patience after `ms` milliseconds, also in the middle of a round, or after three overruns.
 *
 * @example
 * const policy = firstOpinion(withinDowntimeLimit, timeBudget(60_000, 'abort'));
 */
export function timeBudget(ms: number, end: EndOfPatience): ConvergencePolicy {
  inRange('timeBudget: ms', ms, 0);
  checkEnd('timeBudget', end);
  return function timeBudget(input) {
    return spent({ ms }, end, input, 0) ?? outOfPatience(end, input);
  };
}

/**
 * Ends patience as `timeBudget` does, after `MigrateOptions.timeBudgetMs`, or where that is not given after the budget that `otherwise`
 * computes (by default: none). A forced switchover begins before the end of the budget, by the predicted downtime but at most by a
 * quarter of the budget, so that the guest runs at the destination when the budget ends, where possible.
 *
 * @example
 * ```ts
 * const policy = firstOpinion(withinTimeBudget('abort'), withinDowntimeLimit);
 * migrate(vm, link, { policy, timeBudgetMs: 30_000 });
 * ```
 */
export function withinTimeBudget(
  end: EndOfPatience,
  otherwise: (input: PolicyInput) => Budget = () => ({ ms: undefined }),
): ConvergencePolicy {
  checkEnd('withinTimeBudget', end);
  return function withinTimeBudget(input) {
    const budget = budgetOf(input, otherwise);
    const forced = end !== 'abort' && endOfPatience(end, '', input).action === 'switchover';
    const predicted = input.outcome.predictedDowntimeMs;
    const early = forced && predicted > 0 ? Math.min(predicted, (budget.ms ?? 0) * EARLIEST_FORCE) : 0;
    return spent(budget, end, input, early) ?? outOfPatience(end, input);
  };
}

/** `MigrateOptions.timeBudgetMs`, or where that is not given the budget that `otherwise` computes. */
export function budgetOf(input: PolicyInput, otherwise: (input: PolicyInput) => Budget): Budget {
  return input.timeBudgetMs === undefined ? otherwise(input) : { ms: input.timeBudgetMs };
}

function spent({ ms, because }: Budget, end: EndOfPatience, input: PolicyInput, early: number): Decision | undefined {
  if (ms === undefined || input.elapsedMs < ms - early) return undefined;
  const { unpreparedMs } = input;
  const reason =
    `the time budget of ${Math.round(ms)} ms is used up` +
    (early > 0 ? `, but for ${early.toFixed(0)} ms of downtime` : '') +
    (because === undefined ? '' : ` (${because}; timeBudgetMs sets another)`) +
    (unpreparedMs > 0 ? `; the destination has not been prepared for ${unpreparedMs.toFixed(0)} ms` : '');
  return endOfPatience(end, reason, input);
}
