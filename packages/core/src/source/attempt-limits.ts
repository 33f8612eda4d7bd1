import type { Decision } from '../round-record.js';
import type { ResolvedOptions } from './options.js';

/** A decision to pause the guest and send the rest, now or once it runs at the destination. */
export type PauseDecision = Extract<Decision, { action: 'switchover' | 'force' | 'postcopy' }>;

export function pauses(decision: Decision | undefined): decision is PauseDecision {
  return decision?.action === 'switchover' || decision?.action === 'force' || decision?.action === 'postcopy';
}

/** Whether the decision pauses the guest without a time limit. */
export function isForced(decision: Decision | undefined): boolean {
  return decision?.action === 'force' || (decision?.action === 'switchover' && decision.force === true);
}

/**
 * The downtime limit of the attempt that this decision leads to, in milliseconds: the decision's own, or that of the
 * migration.
 */
export function downtimeLimitOf({ downtimeLimitMs }: ResolvedOptions, decision: Decision): number {
  return (decision.action === 'switchover' ? decision.downtimeLimitMs : undefined) ?? downtimeLimitMs;
}

/** The bound of a stop-and-copy with this downtime limit, in milliseconds. */
export function pauseLimitOf({ pauseLimitMs, downtimeLimitMs }: ResolvedOptions, limitMs = downtimeLimitMs): number {
  return pauseLimitMs ?? Math.max(2 * limitMs, 500);
}
