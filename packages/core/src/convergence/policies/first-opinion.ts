import type { ConvergencePolicy } from '../policy.js';

/**
 * Makes a policy that decides as the first of `policies` that has an opinion; the others are not asked.
 *
 * @example
 * ```ts
 * migrate(vm, link, { policy: firstOpinion(timeBudget(60_000, 'abort'), withinDowntimeLimit, throttleToConverge()) });
 * ```
 */
export function firstOpinion(...policies: readonly ConvergencePolicy[]): ConvergencePolicy {
  return (input) => {
    for (const policy of policies) {
      const decision = policy(input);
      if (decision !== undefined) return decision;
    }
    return undefined;
  };
}
