import type { PolicyInput } from '../policy.js';
import { completedRounds } from './completed-rounds.js';
import type { Budget } from './time-budget.js';

/** The parts of a preset's own budget, used where `MigrateOptions.timeBudgetMs` is not given. */
export interface DefaultBudget {
  /** Milliseconds. */
  readonly leastMs: number;
  /** Multiples of the time of the first round, which sends every page once. */
  readonly firstRounds: number;
}

/**
 * A budget of at least `leastMs`, and of `firstRounds` times what the first round took; `undefined` before that round is complete,
 * since every migration has to send it. A guest that dirties a share q of what the link carries converges in 1 / (1 - q) times the
 * first round (the rounds are a geometric series: C. Clark et al., Live Migration of Virtual Machines, NSDI 2005), so that ten first
 * rounds suffice up to q = 0.9 and three up to 0.67. The history keeps 1,000 rounds: once the first round has left it, the budget is
 * `leastMs`.
 *
 * @example
 * const policy = firstOpinion(withinTimeBudget('abort', defaultBudget({ leastMs: 60_000, firstRounds: 10 })), withinDowntimeLimit);
 */
export function defaultBudget({ leastMs, firstRounds }: DefaultBudget): (input: PolicyInput) => Budget {
  return (input) => {
    const [first] = completedRounds(input);
    if (first === undefined) return { ms: undefined };
    if (first.round !== 1) return { ms: leastMs, because: 'more than 1,000 rounds were sent' };
    const ms = first.totalMs * firstRounds;
    return ms <= leastMs
      ? { ms: leastMs, because: 'the least of the default' }
      : { ms, because: `by default ${firstRounds} times the first round` };
  };
}
