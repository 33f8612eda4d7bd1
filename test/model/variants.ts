/** The properties that test/model/switchover.pml must have, by the name of the claim there. */
export const CLAIMS: Readonly<Record<string, string>> = {
  neverTwoRunners: 'at most one side runs the guest',
  stateIsSomewhere: 'the state is somewhere while a process that holds it lives',
  noHelpIsNeeded: 'lost links that come back are settled without help',
  somebodyRuns: 'in the end somebody runs the guest and nobody waits',
};

/**
 * A variant of the protocol with an intended error: a macro of the model, and the place where Spin has to find the
 * error.
 */
export interface Variant {
  readonly macro: string;
  /** The claim that is violated; without one, an assertion fails. */
  readonly claim?: string;
  /** A part of the model's line whose assertion has to fail. */
  readonly assertion?: string;
}

/** The line for a frame in a phase in which the protocol's table does not allow it. */
const ILLEGAL_AT_SOURCE = ':: else -> assert(false)';
const ILLEGAL_AT_DESTINATION = ':: else -> assert(dOwn == d_abandoned ||';
/**
 * The line for a `go` that comes when the memory or the devices are those of another attempt, or a page is still zero.
 */
const NOT_WHAT_WAS_PAUSED = 'assert(a == dLoaded && (dMemory == dLoaded || dPage == p_missing)';

export const VARIANTS: readonly Variant[] = [
  // Variants of the point of no return.
  { macro: 'SOURCE_RESUMES_AFTER_GO', claim: 'neverTwoRunners' },
  { macro: 'SOURCE_GOES_BACK_AFTER_GO', claim: 'neverTwoRunners' },
  { macro: 'SOURCE_RECOVERS_BY_A_TIMER', claim: 'neverTwoRunners' },
  { macro: 'SOURCE_RESUMES_WHEN_ANOTHER_ANSWERS', claim: 'neverTwoRunners' },
  { macro: 'SOURCE_FORGETS_AT_GO', claim: 'stateIsSomewhere' },
  { macro: 'GO_IS_SAID_ONCE', claim: 'somebodyRuns' },
  { macro: 'DESTINATION_RUNS_ON_A_LOST_LINK', claim: 'neverTwoRunners' },
  { macro: 'DESTINATION_ABANDONS_READY_ON_A_LOST_LINK', claim: 'noHelpIsNeeded' },
  { macro: 'KEPT_IS_NOT_TOLD', claim: 'noHelpIsNeeded' },

  // Variants of the authority.
  { macro: 'SOURCE_RESUMES_WHILE_TRANSFERRING', claim: 'neverTwoRunners' },
  { macro: 'WITHDRAWN_IS_NOT_FINAL', claim: 'neverTwoRunners' },
  { macro: 'SOURCE_RECOVERS_WITHOUT_ASKING', claim: 'neverTwoRunners' },
  { macro: 'RECOVER_DOES_NOT_WITHDRAW', claim: 'neverTwoRunners' },
  { macro: 'DESTINATION_RUNS_WITHOUT_ASKING', claim: 'neverTwoRunners' },
  { macro: 'DESTINATION_RECOVERS_WITHOUT_ASKING', claim: 'neverTwoRunners' },
  { macro: 'SETTLE_DOES_NOT_ASK_THE_AUTHORITY', assertion: 'assert(sGranted)' },

  // Variants of going back.
  { macro: 'GO_OF_ANY_ATTEMPT_IS_ACCEPTED', assertion: NOT_WHAT_WAS_PAUSED },
  { macro: 'LAST_ROUND_IS_NOT_OWED_AGAIN', assertion: NOT_WHAT_WAS_PAUSED },
  {
    macro: 'STALE_READY_COUNTS',
    assertion: 'assert(DESTINATION_IS_DEAD || dLoaded == sAttempt && dOwn != d_receiving)',
  },
  { macro: 'ATTEMPTS_ARE_NOT_COUNTED', assertion: 'assert(attempt > dLoaded);' },
  { macro: 'HELLO_RUNNING_DOES_NOT_VOID_READY', assertion: ILLEGAL_AT_DESTINATION },
  { macro: 'BACK_DOES_NOT_VOID_READY', assertion: ILLEGAL_AT_DESTINATION },
  { macro: 'BACK_IS_NOT_SAID', assertion: ILLEGAL_AT_DESTINATION },
  { macro: 'BACK_ACK_IS_NOT_WAITED_FOR', assertion: ILLEGAL_AT_SOURCE },

  // Variants of post-copy.
  { macro: 'RELEASED_BEFORE_WHOLE', claim: 'stateIsSomewhere' },
  { macro: 'RESUMED_AS_RUNNING_WITH_A_PAGE_MISSING', claim: 'stateIsSomewhere' },
  { macro: 'WHOLE_IS_SAID_WITH_A_PAGE_MISSING', assertion: 'assert(dMemory == dLoaded);' },
  { macro: 'SOURCE_RESUMES_IN_POST_COPY', claim: 'neverTwoRunners' },
  { macro: 'SOURCE_RECOVERS_IN_POST_COPY_WITHOUT_ASKING', claim: 'neverTwoRunners' },
  { macro: 'DESTINATION_RECOVERS_WITH_A_PAGE_MISSING', claim: 'somebodyRuns' },
  { macro: 'MISSING_PAGES_ARE_NOT_SERVED', assertion: NOT_WHAT_WAS_PAUSED },
  { macro: 'MISSING_PAGES_ARE_NOT_OWED_AGAIN', claim: 'somebodyRuns' },
  { macro: 'ANSWERS_ARE_NOT_OWED_AGAIN', assertion: NOT_WHAT_WAS_PAUSED },
  { macro: 'ANSWERS_ARE_NOT_OWED_AGAIN_IN_A_PAUSE', claim: 'somebodyRuns' },
  { macro: 'ANSWERS_OUTLIVE_THEIR_ATTEMPT', assertion: NOT_WHAT_WAS_PAUSED },
  { macro: 'SERVING_IS_NOT_WAITED_FOR', assertion: NOT_WHAT_WAS_PAUSED },

  // Variants of connections, and of a destination that is restarted.
  { macro: 'OLD_CONNECTION_IS_READ', assertion: NOT_WHAT_WAS_PAUSED },
  { macro: 'ROUNDS_GO_ON_AT_A_RESTARTED_DESTINATION', assertion: 'assert(round == dRound)' },
  { macro: 'WELCOME_IS_SAID_ONCE', assertion: 'assert(state == r_receiving && (number == sRound' },

  // Variants of the claim on the VM.
  { macro: 'CLAIM_IS_NOT_TAKEN', assertion: 'assert(sDone && S_RUNS)' },
  { macro: 'CLAIM_ENDS_WITH_THE_CANCEL', assertion: 'assert(sDone && S_RUNS)' },
  { macro: 'CLAIM_ENDS_WITH_THE_HAND_OVER', assertion: 'assert(sDone && S_RUNS)' },
];
