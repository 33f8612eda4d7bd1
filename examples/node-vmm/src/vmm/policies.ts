import {
  type ConvergencePolicy,
  firstOpinion,
  GodwitError,
  type MigrateOptions,
  type PresetName,
  presets,
  roundCap,
  suggestion,
  withinDowntimeLimit,
} from '@godwit/core';

/** The names of the engine's policies on the command line. */
export const POLICY_NAMES = Object.keys(presets) as readonly PresetName[];

/** The engine's policy of that name. Without a name the guest is moved after at most `maxRounds` rounds, whatever the downtime. */
export function policyFor(name: PresetName | undefined, maxRounds: number): NonNullable<MigrateOptions['policy']> {
  return name ?? firstOpinion(withinDowntimeLimit, roundCap(maxRounds, 'switchover'));
}

/** @throws GodwitError GODWIT_INVALID_ARGUMENT, with the names that there are, and one that is near */
export function policyNamed(policy: ConvergencePolicy | PresetName): ConvergencePolicy {
  if (typeof policy === 'function') return policy;
  if (POLICY_NAMES.includes(policy)) return presets[policy];
  throw new GodwitError(
    'GODWIT_INVALID_ARGUMENT',
    `there is no policy "${policy}"; there are ${POLICY_NAMES.join(', ')}${suggestion(String(policy), POLICY_NAMES)}`,
  );
}
