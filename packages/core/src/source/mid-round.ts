import type { PolicyMoment, RoundOutcome } from '../convergence/policy.js';
import type { Decision } from '../round-record.js';
import type { PauseDecision } from './attempt-limits.js';

/** The decisions that are made in the middle of a round. */
export interface MidRound {
  /**
   * The switchover for which the round may be ended early, and the policy's decision. Throws when the policy throws, or returns no valid
   * decision.
   */
  inRound(
    moment: PolicyMoment,
    outcome: RoundOutcome,
  ): { readonly wanted: PauseDecision | undefined; readonly said: Decision | undefined };
  /** Resolves with whether nothing keeps this switchover from beginning at once. */
  mayBegin(wanted: PauseDecision): Promise<boolean>;
  /** Notes that the running round is ended early for this decision. */
  cutFor(wanted: PauseDecision): void;
}

/** The part that asks the policy while the guest runs, as the code that sends rounds uses it. */
export interface RoundCuts {
  /** Returns a signal that aborts when the round that begins now is to end early. */
  roundBegins(decide: MidRound): AbortSignal;
  /** Notes that the round was acknowledged, or has failed. */
  roundEnds(): void;
  /** Asks the policy until `over` aborts. Never rejects. */
  run(over: AbortSignal): Promise<void>;
}
