import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type ConvergencePolicy, firstOpinion, presets, roundCap, timeBudget, withinDowntimeLimit } from '@godwit/core';
import { ArgumentError } from '../command/argument-error.js';

/** A policy with the name by which it was asked for. */
export interface NamedPolicy {
  readonly name: string;
  readonly policy: ConvergencePolicy;
}

/** What a policy may depend on beside its name. */
export interface PolicySettings {
  readonly timeBudgetMs: number | undefined;
  /** Whether the migration may go on as post-copy. */
  readonly postcopy: boolean;
}

/** Without a time budget: how long the policies wait that need one, in milliseconds. */
const BUDGET_MS = 60_000;

/** The policies that have a name: the engine's presets, and plain rules to compare them with. */
const POLICIES: Readonly<Record<string, (settings: PolicySettings) => ConvergencePolicy>> = {
  ...Object.fromEntries(Object.entries(presets).map(([name, preset]) => [name, () => preset])),
  'within-downtime-limit': () => withinDowntimeLimit,
  'round-cap': () => firstOpinion(withinDowntimeLimit, roundCap(30, 'switchover')),
  'time-budget': ({ timeBudgetMs = BUDGET_MS }) =>
    firstOpinion(withinDowntimeLimit, timeBudget(timeBudgetMs, 'switchover')),
};

/** Names that `--policy` knows. */
export const POLICY_NAMES: readonly string[] = Object.keys(POLICIES);

/** The policies of a list such as `within-downtime-limit,./mine.mjs`: names, and modules that export one by default. */
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
      `there is no policy "${name}"; there are ${POLICY_NAMES.join(', ')}, and files such as ./mine.mjs that export one by default`,
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
