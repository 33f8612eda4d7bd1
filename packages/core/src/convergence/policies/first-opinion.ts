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
  const policy: ConvergencePolicy = (input) => {
    for (const one of policies) {
      const decision = one(input);
      if (decision !== undefined) return decision;
    }
    return undefined;
  };
  // Errors name a policy by its function's name.
  const names = policies.map(({ name }) => name || 'unnamed').join(', ');
  return Object.defineProperty(policy, 'name', { value: `firstOpinion(${names})` });
}
