import { type ConvergencePolicy, firstOpinion, type MigrateOptions, roundCap, withinDowntimeLimit } from '@godwit/core';

/** The names of the engine's policies on the command line. */
export const POLICY_NAMES = ['gentle', 'balanced', 'urgent', 'qemu', 'vep248', 'vep291'] as const;

export type PolicyName = (typeof POLICY_NAMES)[number];

/** The policy of that name, which the engine knows. Without one the guest is moved after `maxRounds` at the latest, whatever the downtime. */
export function policyFor(name: PolicyName | undefined, maxRounds: number): NonNullable<MigrateOptions['policy']> {
  const chosen: PolicyName | ConvergencePolicy =
    name ?? firstOpinion(withinDowntimeLimit, roundCap(maxRounds, 'switchover'));
  return chosen as NonNullable<MigrateOptions['policy']>;
}
