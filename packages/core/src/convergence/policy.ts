import type { Decision, RoundRecord } from '../round-record.js';

/** A round that was sent, and the prediction after it. */
export type RoundOutcome = Omit<RoundRecord, 'decision'>;

/**
 * When a policy is asked. `round-end`: a round is acknowledged, and the pages that are owed were just counted. `in-round`: at any other
 * time while the guest runs at the source, every 100 ms, while the migration waits for the first connection, a round that is being sent, a
 * tracker, another link or the destination. `adjusted`: as `in-round`, at once after a limit was changed by `adjust`.
 */
export type PolicyMoment = 'round-end' | 'in-round' | 'adjusted';

/** What a policy is asked with: the history, the prediction, and what the migration can do. Nothing of it may be changed. */
export interface PolicyInput {
  readonly moment: PolicyMoment;
  /**
   * The round to judge. At other moments than a round's end this is the last complete round (before the first one: a round 0 with nothing
   * in it), but with the present `newlyDirtyPages`, `prediction` and `predictedDowntimeMs`: they count the pages of the running round that
   * are left, and those that the guest has dirtied since, by the rate of the last harvest. In round 1 that rate is not known, and counts as
   * 0; before round 1 all of RAM is owed. `linkBytesPerSecond` is 0 while nothing is known of the link.
   */
  readonly outcome: RoundOutcome;
  /** Rounds before this one, oldest first; the last 1,000 at most. */
  readonly history: readonly RoundRecord[];
  readonly downtimeLimitMs: number;
  /**
   * How long a pause without `force` may last before the guest runs on at the source: `MigrateOptions.pauseLimitMs`, or its default;
   * infinite with `MigrateOptions.force`. Milliseconds.
   */
  readonly pauseLimitMs: number;
  /** The predicted downtime with no page left to send, which no round can lower. Milliseconds. */
  readonly fixedDowntimeMs: number;
  readonly elapsedMs: number;
  /** `MigrateOptions.timeBudgetMs`: the time for the whole migration; `undefined` when none was given. */
  readonly timeBudgetMs: number | undefined;
  /** The share of time for which vCPUs are held back now, as set by a decision `throttle`: 0 to 0.99. */
  readonly throttle: number;
  /**
   * Whether the VM can throttle its vCPUs; without it a decision `throttle` ends the migration with `GODWIT_UNSUPPORTED`, unless its
   * fraction is 0. It becomes false when the VM's `throttle` throws.
   */
  readonly canThrottle: boolean;
  /**
   * Whether the guest may run at the destination before all its pages are there: both sides support post-copy, and the destination can hold
   * the whole state of the devices until the switchover.
   */
  readonly canPostcopy: boolean;
  /** The limit in force, whether by the option, `adjust` or a decision. Bytes per second; 0: no limit. */
  readonly bandwidthLimit: number;
  /**
   * The number of pages that are sent in a second within `bandwidthLimit`, counting pages like those that the guest rewrites; `undefined`
   * while unknown.
   */
  readonly pagesPerSecond: number | undefined;
  /** Bytes of a page. */
  readonly pageSize: number;
  /** Number of switchovers that were given up because the guest would have been down for too long. */
  readonly overruns: number;
  /** For how long the source has waited for the destination to be prepared, in milliseconds; 0 while the destination is prepared. */
  readonly unpreparedMs: number;
}

/** Number of overruns after which the policies of this package act as if their cap were reached. */
export const PATIENCE = 3;

/**
 * A convergence policy: a pure function of what happened. `undefined` means "no opinion", so that policies compose with `firstOpinion`;
 * without any opinion the round goes on, or another one is sent.
 *
 * Asked at each round's end, every 100 ms while the guest runs, when `timeBudgetMs` is used up, and after `adjust`. `throttle`, `bandwidth`
 * and `abort` are carried out at once, at any of these moments.
 *
 * A switchover in the middle of a round ends the round early: pages that the destination has stay there, the other pages of the round count
 * as dirty, and the policy is asked once more with what is then owed. Where the policy then has no opinion, its first decision stands: one
 * with `force` always, one without it if the predicted downtime is still within its limit. While no round is being sent, a switchover waits
 * for the next one.
 *
 * A decision that is none of `Decision`, or has an impossible number, ends the migration with `GODWIT_INVALID_ARGUMENT`, one that cannot be
 * carried out with `GODWIT_UNSUPPORTED`, an exception with `GODWIT_INTERNAL`; all name the policy by its function's name, and the guest
 * runs on at the source. Each call is given an input of its own, which it may change.
 */
export type ConvergencePolicy = (input: PolicyInput) => Decision | undefined;
