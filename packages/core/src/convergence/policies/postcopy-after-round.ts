import type { ConvergencePolicy } from '../policy.js';

/**
 * Goes on as post-copy once this many rounds are complete, where the migration can (`PolicyInput.canPostcopy`).
 *
 * @example
 * migrate(vm, connector, { postcopy: true, policy: firstOpinion(withinDowntimeLimit, postcopyAfterRound(1)) });
 */
export function postcopyAfterRound(rounds: number): ConvergencePolicy {
  return function postcopyAfterRound({ moment, outcome, canPostcopy }) {
    if (moment !== 'round-end' || !canPostcopy || outcome.round < rounds) return undefined;
    return {
      action: 'postcopy',
      reason: `${outcome.round} rounds are complete; ${outcome.newlyDirtyPages} pages follow once the guest runs`,
    };
  };
}
