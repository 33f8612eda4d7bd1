import type { PolicyInput, RoundOutcome } from '../policy.js';

/**
 * Rounds of pre-copy that are complete, oldest first: those of the history, and at a round's end the round that has just ended. The
 * pages that a given-up attempt sent with the guest paused are no round of pre-copy, since a paused guest writes nothing.
 */
export function completedRounds({ moment, history, outcome }: PolicyInput): readonly RoundOutcome[] {
  const rounds: RoundOutcome[] = history.filter(({ phase }) => phase !== 'stop-and-copy');
  if (moment === 'round-end') rounds.push(outcome);
  return rounds;
}

/** Milliseconds since the round at `index` of `rounds` has ended; 0 when there is none. */
export function endedMsAgo(
  { elapsedMs }: { readonly elapsedMs: number },
  rounds: readonly RoundOutcome[],
  index: number,
): number {
  return Math.max(0, elapsedMs - (rounds[index]?.endedAtMs ?? elapsedMs));
}
