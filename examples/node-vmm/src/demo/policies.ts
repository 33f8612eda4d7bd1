import {
  firstOpinion,
  type MigrateOptions,
  type PresetName,
  presets,
  roundCap,
  withinDowntimeLimit,
} from '@godwit/core';

/** The names of the engine's policies on the command line. */
export const POLICY_NAMES = Object.keys(presets) as readonly PresetName[];

/** The policy of that name, which the engine knows. Without one the guest is moved after `maxRounds` at the latest, whatever the downtime. */
export function policyFor(name: PresetName | undefined, maxRounds: number): NonNullable<MigrateOptions['policy']> {
  return name ?? firstOpinion(withinDowntimeLimit, roundCap(maxRounds, 'switchover'));
}
