import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import {
  type ConvergencePolicy,
  firstOpinion,
  presets,
  roundCap,
  suggestion,
  timeBudget,
  withinDowntimeLimit,
} from '@godwit/core';
import { ArgumentError } from '../command/argument-error.js';

/** A policy, with the name that the user gave. */
export interface NamedPolicy {
  readonly name: string;
  readonly policy: ConvergencePolicy;
}

/** The settings that a policy may depend on. */
export interface PolicySettings {
  readonly timeBudgetMs: number | undefined;
  /** Whether the migration may go on as post-copy. */
  readonly postcopy: boolean;
}

/** The time budget of policies that need one, if none was given, in milliseconds. */
const BUDGET_MS = 60_000;

/** The named policies: the engine's presets, and simple rules to compare them with. */
const POLICIES: Readonly<Record<string, (settings: PolicySettings) => ConvergencePolicy>> = {
  ...Object.fromEntries(Object.entries(presets).map(([name, preset]) => [name, () => preset])),
  'within-downtime-limit': () => withinDowntimeLimit,
  'round-cap': () => firstOpinion(withinDowntimeLimit, roundCap(30, 'switchover')),
  'time-budget': ({ timeBudgetMs = BUDGET_MS }) =>
    firstOpinion(withinDowntimeLimit, timeBudget(timeBudgetMs, 'switchover')),
};

/** The names that `--policy` accepts. */
export const POLICY_NAMES: readonly string[] = Object.keys(POLICIES);

/**
 * The policies of a list such as `within-downtime-limit,./mine.mjs`: names, and modules whose default export is a
 * policy.
 */
export async function policiesOf(list: string, settings: PolicySettings): Promise<readonly NamedPolicy[]> {
  const names = list.split(',').map((name) => name.trim());
  return Promise.all(names.map((name) => policyOf(name, settings)));
}

async function policyOf(name: string, settings: PolicySettings): Promise<NamedPolicy> {
  if (name === 'hybrid' && !settings.postcopy) {
    throw new ArgumentError('the policy hybrid goes on as post-copy, which takes --postcopy');
  }
  const known = Object.hasOwn(POLICIES, name) ? POLICIES[name] : undefined;
  if (known !== undefined) return { name, policy: known(settings) };
  if (!/[./\\]/.test(name)) {
    throw new ArgumentError(
      `there is no policy "${name}"; there are ${POLICY_NAMES.join(', ')}, and files such as ./mine.mjs that export one by default${suggestion(name, POLICY_NAMES)}`,
    );
  }
  let module: { readonly default?: unknown };
  try {
    module = (await import(pathToFileURL(resolve(name)).href)) as { readonly default?: unknown };
  } catch (error) {
    throw new ArgumentError(`the policy ${name} cannot be loaded: ${(error as Error).message}`);
  }
  if (typeof module.default === 'function') return { name, policy: module.default as ConvergencePolicy };
  throw new ArgumentError(`${name} must export a policy by default: a function, got ${typeof module.default}`);
}
