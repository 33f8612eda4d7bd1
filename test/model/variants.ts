/** What has to hold of test/model/switchover.pml, by the name of the claim there. */
export const CLAIMS: Readonly<Record<string, string>> = {
  neverTwoRunners: 'at most one side runs the guest',
  stateIsSomewhere: 'the state is somewhere while a process that holds it lives',
  noHelpIsNeeded: 'lost links that come back are settled without help',
  somebodyRuns: 'in the end somebody runs the guest and nobody waits',
};

/** The protocol made wrong on purpose: a macro of the model, and where Spin has to find the error. */
export interface Variant {
  readonly macro: string;
  /** A claim; `undefined` for an assertion, checked without any claim. */
  readonly refutedBy: string | undefined;
}

export const VARIANTS: readonly Variant[] = [
  { macro: 'SOURCE_RESUMES_AFTER_GO', refutedBy: 'neverTwoRunners' },
  { macro: 'SOURCE_RECOVERS_BY_A_TIMER', refutedBy: 'neverTwoRunners' },
  { macro: 'SOURCE_RESUMES_WHEN_ANOTHER_ANSWERS', refutedBy: 'neverTwoRunners' },
  { macro: 'DESTINATION_RUNS_ON_A_LOST_LINK', refutedBy: 'neverTwoRunners' },
  { macro: 'SOURCE_FORGETS_AT_GO', refutedBy: 'stateIsSomewhere' },
  { macro: 'DESTINATION_ABANDONS_READY_ON_A_LOST_LINK', refutedBy: 'noHelpIsNeeded' },
  { macro: 'KEPT_IS_NOT_TOLD', refutedBy: 'noHelpIsNeeded' },
  { macro: 'GO_IS_SAID_ONCE', refutedBy: 'somebodyRuns' },
  { macro: 'OLD_CONNECTION_IS_READ', refutedBy: undefined },
  { macro: 'ROUNDS_GO_ON_AT_A_RESTARTED_DESTINATION', refutedBy: undefined },
  { macro: 'WELCOME_IS_SAID_ONCE', refutedBy: undefined },
];
