import { checkOptions, inRange } from '../../argument.js';
import { type ConvergencePolicy, PATIENCE, type PolicyInput, type RoundOutcome } from '../policy.js';
import { completedRounds } from './completed-rounds.js';
import { isSaturated, neededThrottle } from './throttle-model.js';
import { type Budget, budgetOf } from './time-budget.js';

/** How hard a policy may hold the guest back. */
export interface ThrottlePolicyOptions {
  /** The largest throttle: the share of their time for which vCPUs are held back, up to 0.99; default 0.8. */
  readonly most?: number;
  /**
   * Rounds that have to show that the guest writes too fast before it is throttled, 1 or 2; default 2, so that a burst within one round is
   * not answered.
   */
  readonly rounds?: 1 | 2;
  /** The budget to use where `MigrateOptions.timeBudgetMs` is not given; default: none. */
  readonly budget?: (input: PolicyInput) => Budget;
}

/** The number of rounds whose measurements count, the last one included. */
const LOOK_BACK = 3;

/** Added to the throttle that the model asks for, so that rounds shrink although the guest and the link vary. */
const MARGIN = 0.03;

/**
 * Added instead of `MARGIN` when the guest had the throttle that the model asked for and still wrote its whole working set. That throttle
 * is then known not to suffice, so that the new one stays less than 10 points above the one that is needed.
 */
const STEP = 0.04;

/** The throttle is lowered only when it is more than this above what the model asks for, so that it does not go up and down in turns. */
const ROOM = 0.08;

/**
 * Throttles vCPUs by as much as it takes to converge within the time budget, and lowers the throttle when less is enough. The policy
 * decides at the end of a round, by the measurements of the last three: it raises the throttle when all of them ask for more, and lowers
 * it when all of them allow less; otherwise the throttle stays. It is never more than 10 points above what is needed while the guest and
 * the link vary by 2 % from round to round, and 0 where the VM cannot throttle, the link is unknown or no throttle would help in time.
 *
 * `neededThrottle` in this folder has the model, and its source.
 *
 * @example
 * ```ts
 * const policy = firstOpinion(withinTimeBudget('abort'), withinDowntimeLimit, throttleToConverge({ most: 0.5 }));
 * ```
 */
export function throttleToConverge(options: ThrottlePolicyOptions = {}): ConvergencePolicy {
  checkOptions<ThrottlePolicyOptions>('throttleToConverge', options, { most: true, rounds: true, budget: true });
  const { most = 0.8, rounds = 2, budget = () => ({ ms: undefined }) } = options;
  inRange('throttleToConverge: most', most, 0, 0.99);
  inRange('throttleToConverge: rounds', rounds, 1, 2);
  return function throttleToConverge(input) {
    const { moment, canThrottle, throttle, outcome, overruns } = input;
    if (!canThrottle || moment !== 'round-end' || overruns >= PATIENCE) return undefined;
    const need = askedFor(input, rounds, budgetOf(input, budget).ms);
    if (need === undefined) return undefined;
    if (throttle < need.low && need.low <= 1) {
      const tried = isSaturated(outcome) && isHeld(outcome, throttle);
      return changed(input, Math.min(most, inPoints(need.low + (tried ? STEP : MARGIN))), need.low);
    }
    if (throttle > need.high + ROOM) return changed(input, Math.max(0, inPoints(need.high + MARGIN)), need.high);
    return undefined;
  };
}

/** The bounds that the last rounds show: a throttle below `low` is too low, one above `high` is higher than needed. */
function askedFor(
  input: PolicyInput,
  rounds: 1 | 2,
  budgetMs: number | undefined,
): { readonly low: number; readonly high: number } | undefined {
  const { outcome, elapsedMs, downtimeLimitMs, throttle } = input;
  const leftMs = budgetMs === undefined ? Number.POSITIVE_INFINITY : budgetMs - elapsedMs - downtimeLimitMs;
  const now = neededThrottle(outcome, input, leftMs);
  if (now === undefined) return undefined;
  const before = completedRounds(input).slice(-LOOK_BACK, -1);
  let [low, high] = [now, now];
  for (const round of before) {
    const then = neededThrottle(round, input, leftMs) ?? now;
    high = Math.max(high, then);
    // A round that shows only a lower bound of the guest's rate does not contradict a round at a higher throttle that shows the rate.
    if (!isSaturated(round) || isHeld(round, throttle)) low = Math.min(low, then);
  }
  if (throttle === 0 && rounds === 1) return { low: now, high };
  return { low: before.length + 1 < 2 ? Number.NEGATIVE_INFINITY : low, high };
}

/** Whether the guest had this throttle during the round. */
function isHeld(round: RoundOutcome, throttle: number): boolean {
  return Math.abs(round.throttle - throttle) < 0.02;
}

/** Rounds a share up to a whole percentage point. */
function inPoints(share: number): number {
  return Math.ceil(share * 100 - 1e-6) / 100;
}

function changed(input: PolicyInput, fraction: number, needed: number): ReturnType<ConvergencePolicy> {
  const { throttle, outcome, pagesPerSecond = 0 } = input;
  if (fraction === throttle) return undefined;
  if (fraction > throttle !== needed > throttle) return undefined;
  const percent = (share: number) => `${Math.round(share * 100)} %`;
  return {
    action: 'throttle',
    fraction,
    reason:
      `the guest writes ${Math.round(outcome.dirtyPagesPerSecond)} pages/s at a throttle of ${percent(outcome.throttle)}, and ` +
      `${Math.round(pagesPerSecond)} go out: ${fraction > throttle ? 'it is held back by' : 'there is room, it is held back by only'} ` +
      percent(fraction),
  };
}
