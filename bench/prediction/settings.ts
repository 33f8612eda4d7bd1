import { type ConvergencePolicy, firstOpinion, roundCap, withinDowntimeLimit } from '@godwit/core';
import type { PredictionCase } from './cases.js';

/** Rounds after which a guest that does not come within its limit is switched over. */
const MOST_ROUNDS = 12;

/** The settings of a live migration, and of its simulation. */
export interface LiveSettings {
  readonly downtimeLimitMs: number;
  readonly bandwidthLimit: number;
  readonly policy: ConvergencePolicy;
}

export function liveSettings({ downtimeLimitMs, bandwidthLimit }: PredictionCase): LiveSettings {
  return {
    downtimeLimitMs,
    bandwidthLimit,
    policy: firstOpinion(withinDowntimeLimit, roundCap(MOST_ROUNDS, 'switchover')),
  };
}
