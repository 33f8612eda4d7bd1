import type { ConvergencePolicy, PolicyInput } from '../convergence/policy.js';
import { GodwitError } from '../errors.js';
import type { Decision } from '../round-record.js';

const ACTIONS: ReadonlySet<unknown> = new Set<Decision['action']>(['continue', 'switchover', 'abort']);

/**
 * What a policy decides. Throws `GODWIT_INTERNAL` when the policy throws, and `GODWIT_INVALID_ARGUMENT` when what it returns is
 * neither `undefined` nor a decision; both name the policy.
 */
export function askPolicy(policy: ConvergencePolicy, input: PolicyInput): Decision | undefined {
  const name = policy.name === '' ? 'the policy' : `the policy "${policy.name}"`;
  let decision: Decision | undefined;
  try {
    decision = policy(input);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    throw new GodwitError('GODWIT_INTERNAL', `${name} threw: ${message}; a policy returns a decision or undefined`, {
      cause: error,
    });
  }
  if (decision === undefined) return undefined;
  if (ACTIONS.has(decision?.action) && typeof decision.reason === 'string') return decision;
  throw new GodwitError(
    'GODWIT_INVALID_ARGUMENT',
    `${name} returned ${inWords(decision)}; a decision is { action, reason }, with action ` +
      `${[...ACTIONS].map((action) => `"${action}"`).join(', ')} and reason a string, or undefined for no opinion`,
  );
}

function inWords(value: unknown): string {
  try {
    return JSON.stringify(value) ?? String(value);
  } catch {
    return String(value);
  }
}
