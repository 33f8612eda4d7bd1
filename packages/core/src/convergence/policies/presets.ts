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

/** Names of policies that a person chooses, and of three that stand for what others do. */
export type PresetName = 'gentle' | 'balanced' | 'urgent' | 'hybrid' | 'qemu' | 'vep248' | 'vep291';

const PATIENT = defaultBudget({ leastMs: 60_000, firstRounds: 10 });
const HURRIED = defaultBudget({ leastMs: 30_000, firstRounds: 3 });

/** `balanced` holds the guest back no further: a fifth of its speed is left. */
const BALANCED_MOST = 0.8;

/** Part of the budget for which a limit that no round can reach is put up with: somebody may raise it. */
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
 * Policies by name, for `MigrateOptions.policy`. Each goes by `MigrateOptions.timeBudgetMs`; where that is not given, by its own default
 * budget, which begins to count when the first round is complete. A budget ends a migration in the middle of a round too.
 *
 * @example
 * ```ts
 * migrate(vm, link, { policy: 'urgent', timeBudgetMs: 20_000 });
 * ```
 */
export const presets: Readonly<Record<PresetName, ConvergencePolicy>> = {
  /**
   * The guest comes first: it is never held back, and never paused while more than `downtimeLimitMs` is predicted. Gives up at the end
   * of the budget, or when for a tenth of it no round could have reached the limit; the error says what would have sufficed.
   *
   * Default budget: ten times the first round, and at least 60 s.
   */
  gentle: (input) => gentleRules(input),

  /**
   * The default. Switches over within `downtimeLimitMs`, or when nothing is dirty and a pause may last so long, since no round lowers
   * that. A guest that writes too fast is held back by as much as it takes, up to 80 % of its time; if five rounds and 10 s of that bring
   * nothing, or at the end of the budget, it goes on as post-copy where the migration can, or else gives up and says what would have
   * sufficed. It also gives up when for a tenth of the budget no round could have reached the limit.
   *
   * Default budget: ten times the first round, and at least 60 s.
   */
  balanced: (input) => balancedRules(input),

  /**
   * The guest has to leave: it is held back from the first round that shows that it writes too fast, up to 99 % of its time, and at the
   * end of patience it is moved whatever the downtime. So that this ends within the budget, where that can be, it begins early by the
   * downtime that is predicted, but by no more than a quarter of the budget. Patience also ends after three overruns, and when for a
   * tenth of the budget no round could have reached the limit.
   *
   * Default budget: three times the first round, and at least 30 s.
   */
  urgent: (input) => urgentRules(input),

  /**
   * One round of pre-copy, and then post-copy for what the guest has written meanwhile, unless that is so little that it can be sent within
   * `downtimeLimitMs`. The guest is down for its devices only, whatever it writes, and nothing is sent more than twice; while pages are
   * missing at the destination both processes are needed. It takes `postcopy: true`.
   *
   * Default budget: that of `balanced`.
   */
  hybrid: (input) => hybridRules(input),

  /** To compare with: `qemuRule`, which never ends by itself. Gives up at the end of `timeBudgetMs`; it has no budget by default. */
  qemu: (input) => qemuRules(input),

  /**
   * To compare with: `vep248Rule`, beside the limit itself. At the end of the budget goes on as post-copy where it can, else gives up.
   *
   * Default budget: 150 s for each GiB of the first round (`completionTimeoutPerGiB` in KubeVirt).
   */
  vep248: (input) => vep248Rules(input),

  /** To compare with: `vep291Rule`, with the budget of `vep248`. */
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
