import type { PolicyMoment, RoundOutcome } from '../convergence/policy.js';
import type { Decision } from '../round-record.js';
import type { PauseDecision } from './attempt-limits.js';

/** What is decided in the middle of a round. */
export interface MidRound {
  /**
   * The switchover for which the round may be ended early, and what the policy says. Throws when the policy throws, or returns what is no
   * decision.
   */
  inRound(
    moment: PolicyMoment,
    outcome: RoundOutcome,
  ): { readonly wanted: PauseDecision | undefined; readonly said: Decision | undefined };
  /** Resolves with whether nothing keeps this switchover from beginning at once. */
  mayBegin(wanted: PauseDecision): Promise<boolean>;
  /** The running round is ended early for this decision. */
  cutFor(wanted: PauseDecision): void;
}

/** Whoever asks the policy while the guest runs, as far as those who send rounds see it. */
export interface RoundCuts {
  /** Returns a signal that aborts when the round that begins now is to end early. */
  roundBegins(decide: MidRound): AbortSignal;
  /** The round is acknowledged, or has failed. */
  roundEnds(): void;
  /** Asks until `over` aborts. Never rejects. */
  run(over: AbortSignal): Promise<void>;
}
