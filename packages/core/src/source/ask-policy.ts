import type { ConvergencePolicy, PolicyInput } from '../convergence/policy.js';
import { GodwitError } from '../errors.js';
import type { Decision } from '../round-record.js';
import { MOST_THROTTLE } from './vcpu-spread.js';

const ACTIONS: ReadonlySet<unknown> = new Set<Decision['action']>([
  'continue',
  'switchover',
  'force',
  'throttle',
  'bandwidth',
  'postcopy',
  'abort',
]);

/**
 * Asks a policy for its decision. Throws an error that names the policy: `GODWIT_INTERNAL` when the policy throws,
 * `GODWIT_INVALID_ARGUMENT` when it returns neither `undefined` nor a decision, or a decision with an impossible number, and
 * `GODWIT_UNSUPPORTED` for a decision that this migration cannot carry out.
 *
 * @param cannotThrottle why the guest cannot be throttled
 * @param given the policy's name in messages; default: that of its function
 */
export function askPolicy(
  policy: ConvergencePolicy,
  input: PolicyInput,
  cannotThrottle: string,
  given?: string,
): Decision | undefined {
  const name = given ?? (policy.name === '' ? 'the policy' : `the policy "${policy.name}"`);
  let decision: unknown;
  try {
    decision = policy(input);
  } catch (error) {
    throw new GodwitError(
      'GODWIT_INTERNAL',
      `${name} threw: ${messageOf(error)}; a policy returns a decision or undefined`,
      {
        cause: error,
      },
    );
  }
  if (decision === undefined) return undefined;
  if (!isDecision(decision)) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `${name} returned ${inWords(decision)}; a decision is { action, reason }, with action ` +
        `${[...ACTIONS].map((action) => `"${action}"`).join(', ')} and reason a string, or undefined for no opinion`,
    );
  }
  const wrong = wrongNumber(decision);
  if (wrong !== undefined) {
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `${name} returned ${inWords(decision)}; ${wrong}`);
  }
  const impossible = whyImpossible(decision, input, cannotThrottle);
  if (impossible !== undefined) {
    throw new GodwitError('GODWIT_UNSUPPORTED', `${name} decided "${decision.action}", but ${impossible}`);
  }
  return decision;
}

function isDecision(value: unknown): value is Decision {
  // An unhandled rejection of a returned promise would end the process.
  if (value instanceof Promise) value.catch(() => {});
  const { action, reason } = (value ?? {}) as Partial<Decision>;
  return ACTIONS.has(action) && typeof reason === 'string';
}

/** The message for a wrong number in a decision, with what it has to be; `undefined` when all are right. */
function wrongNumber(decision: Decision): string | undefined {
  switch (decision.action) {
    case 'throttle':
      if (decision.fraction >= 0 && decision.fraction <= MOST_THROTTLE) return undefined;
      return `fraction must be a number from 0 to ${MOST_THROTTLE}, got ${inWords(decision.fraction)}`;
    case 'bandwidth':
      if (isNonNegative(decision.bytesPerSecond)) return undefined;
      return `bytesPerSecond must be a number of at least 0 (0: no limit), got ${inWords(decision.bytesPerSecond)}`;
    case 'switchover':
      if (decision.downtimeLimitMs === undefined || isNonNegative(decision.downtimeLimitMs)) return undefined;
      return `downtimeLimitMs must be a number of at least 0, or absent, got ${inWords(decision.downtimeLimitMs)}`;
    default:
      return undefined;
  }
}

function isNonNegative(value: unknown): boolean {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0;
}

/** The reason why this decision cannot be carried out, and what to do. A throttle of 0 is always possible. */
function whyImpossible(
  decision: Decision,
  { canThrottle, canPostcopy }: PolicyInput,
  cannotThrottle: string,
): string | undefined {
  if (decision.action === 'throttle' && decision.fraction > 0 && !canThrottle) {
    return `${cannotThrottle}; let the VM implement it, or decide so only where input.canThrottle is true`;
  }
  if (decision.action === 'postcopy' && !canPostcopy) {
    return (
      'the guest cannot run at the destination before all its pages are there; use "force" or "abort" unless ' +
      'input.canPostcopy is true'
    );
  }
  return undefined;
}

/** The thrown value may be anything, even an object that cannot be converted to a string. */
function messageOf(error: unknown): string {
  try {
    return error instanceof Error ? error.message : String(error);
  } catch {
    return 'what cannot be shown';
  }
}

function inWords(value: unknown): string {
  if (typeof value === 'number') return String(value);
  try {
    return JSON.stringify(value) ?? String(value);
  } catch {
    return messageOf(value);
  }
}
