import { chosen, suggestion } from '../../argument.js';
import { GodwitError } from '../../errors.js';
import type { ConvergencePolicy, PolicyInput } from '../policy.js';
import { completedRounds } from './completed-rounds.js';
import { defaultBudget } from './default-budget.js';
import { strictlyWithinDowntimeLimit, withinDowntimeLimit } from './downtime-limit.js';
import { firstOpinion } from './first-opinion.js';
import { vep291Rule } from './limit-ramp.js';
import { postcopyAfterRound } from './postcopy-after-round.js';
import { qemuPolicy } from './qemu.js';
import { throttleToConverge } from './throttle.js';
import { throttleExhausted } from './throttle-exhausted.js';
import { type Budget, budgetOf, withinTimeBudget } from './time-budget.js';
import { unreachableLimit } from './unreachable-limit.js';
import { vep248Rule } from './vep248.js';

/** Names of policies that a person chooses; `qemu`, `vep248` and `vep291` do what other projects do, for comparison. */
export type PresetName = 'gentle' | 'balanced' | 'urgent' | 'hybrid' | 'qemu' | 'vep248' | 'vep291';

const PATIENT = defaultBudget({ leastMs: 60_000, firstRounds: 10 });
const HURRIED = defaultBudget({ leastMs: 30_000, firstRounds: 3 });

/** The most that `balanced` holds the guest back, which leaves a fifth of its speed. */
const BALANCED_MOST = 0.8;

/** The part of the budget for which a preset goes on with a limit that no round can reach, since somebody may raise the limit. */
const UNREACHABLE = 0.1;

const gentleRules = firstOpinion(
  withinTimeBudget('abort', PATIENT),
  strictlyWithinDowntimeLimit,
  unreachableLimit(tenthOf(PATIENT), 'abort'),
);

const balancedRules = firstOpinion(
  withinTimeBudget('postcopy-or-abort', PATIENT),
  withinDowntimeLimit,
  unreachableLimit(tenthOf(PATIENT), 'abort'),
  throttleExhausted(BALANCED_MOST, { rounds: 5, leastMs: 10_000 }, 'postcopy-or-abort'),
  throttleToConverge({ most: BALANCED_MOST, budget: PATIENT }),
);

const urgentRules = firstOpinion(
  withinTimeBudget('force', HURRIED),
  withinDowntimeLimit,
  unreachableLimit(tenthOf(HURRIED), 'force'),
  throttleToConverge({ most: 0.99, rounds: 1, budget: HURRIED }),
);

const hybridRules = firstOpinion(
  withinTimeBudget('postcopy-or-abort', PATIENT),
  withinDowntimeLimit,
  postcopyAfterRound(1),
  balancedRules,
);

const qemuRules = firstOpinion(withinTimeBudget('abort'), qemuPolicy());
const vep248Rules = firstOpinion(
  withinTimeBudget('postcopy-or-abort', kubeVirtBudget),
  withinDowntimeLimit,
  vep248Rule(),
);
const vep291Rules = firstOpinion(withinTimeBudget('postcopy-or-abort', kubeVirtBudget), vep291Rule);

/**
 * Policies by name, for `MigrateOptions.policy`. Each uses `MigrateOptions.timeBudgetMs`; where that is not given, its own default budget,
 * which begins to count when the first round is complete. A budget ends a migration in the middle of a round too.
 *
 * @example
 * ```ts
 * migrate(vm, link, { policy: 'urgent', timeBudgetMs: 20_000 });
 * ```
 */
export const presets: Readonly<Record<PresetName, ConvergencePolicy>> = {
  /**
   * The guest comes first: it is never held back, and never paused while more than `downtimeLimitMs` is predicted. The migration is given
   * up at the end of the budget, or when no round could have reached the limit for a tenth of the budget; the error says which limit would
   * have sufficed.
   *
   * Default budget: ten times the first round, and at least 60 s.
   */
  gentle: (input) => gentleRules(input),

  /**
   * The default. Switches over within `downtimeLimitMs`, or when nothing is dirty and the pause limit allows the predicted downtime, since
   * further rounds do not lower it. A guest that writes too fast is throttled by as much as convergence needs, up to 80 % of its time; if
   * five rounds and 10 s at that throttle make no progress, or at the end of the budget, it goes on as post-copy where the migration can,
   * or else the migration is given up, and the error says what would have sufficed. The migration is also given up when no round could have
   * reached the limit for a tenth of the budget.
   *
   * Default budget: ten times the first round, and at least 60 s.
   */
  balanced: (input) => balancedRules(input),

  /**
   * The guest has to leave: it is throttled from the first round that shows that it writes too fast, up to 99 % of its time, and at the end
   * of patience it is moved whatever the downtime. The forced switchover begins before the end of the budget, by the predicted downtime but
   * at most by a quarter of the budget, so that it ends within the budget where possible. Patience also ends after three overruns, and when
   * no round could have reached the limit for a tenth of the budget.
   *
   * Default budget: three times the first round, and at least 30 s.
   */
  urgent: (input) => urgentRules(input),

  /**
   * One round of pre-copy, and then post-copy for what the guest has written meanwhile, unless those pages can be sent within
   * `downtimeLimitMs`. The guest is down for its devices only, whatever it writes, and no page is sent more than twice; while pages are
   * missing at the destination both processes are needed. This preset requires `postcopy: true`.
   *
   * Default budget: that of `balanced`.
   */
  hybrid: (input) => hybridRules(input),

  /**
   * For comparison: `qemuRule`, which never gives up by itself. The migration is given up at the end of `timeBudgetMs`; there is no budget
   * by default.
   */
  qemu: (input) => qemuRules(input),

  /**
   * For comparison: `vep248Rule` together with the downtime limit itself. At the end of the budget the migration goes on as post-copy where
   * it can, and is otherwise given up.
   *
   * Default budget: 150 s for each GiB of the first round (`completionTimeoutPerGiB` in KubeVirt).
   */
  vep248: (input) => vep248Rules(input),

  /** For comparison: `vep291Rule`, with the budget of `vep248`. */
  vep291: (input) => vep291Rules(input),
};

/** The policy of that name, or the function itself. Throws `GODWIT_INVALID_ARGUMENT`, with the names that there are. */
export function policyOf(policy: ConvergencePolicy | PresetName, name = 'policy'): ConvergencePolicy {
  if (typeof policy === 'function') return policy;
  if (typeof policy === 'string' && Object.hasOwn(presets, policy)) return presets[policy];
  const names = Object.keys(presets)
    .map((preset) => `"${preset}"`)
    .join(', ');
  const near = suggestion(String(policy), Object.keys(presets));
  throw new GodwitError(
    'GODWIT_INVALID_ARGUMENT',
    `${name} must be a function or one of ${names}, got ${chosen(policy)}${near}`,
  );
}

function tenthOf(otherwise: (input: PolicyInput) => Budget): (input: PolicyInput) => number {
  return (input) => (budgetOf(input, otherwise).ms ?? Number.POSITIVE_INFINITY) * UNREACHABLE;
}

function kubeVirtBudget(input: PolicyInput): Budget {
  const [first] = completedRounds(input);
  if (first === undefined) return { ms: undefined };
  const gib = (first.dirtyPages * input.pageSize) / 2 ** 30;
  return { ms: Math.max(1, gib) * 150_000, because: 'by default 150 s for each GiB' };
}
