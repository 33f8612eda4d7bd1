import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';

/** The pause before the first attempt, and the longest one; each is twice the one before. Milliseconds. */
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5000;

/** Each pause is shortened or lengthened by up to a quarter, so that many migrations do not come back in one moment. */
const JITTER = 0.25;

/** What says that this attempt came to nothing, and nothing about the next one. */
const PASSING: readonly string[] = ['GODWIT_CONNECT_FAILED', 'GODWIT_LINK_LOST', 'GODWIT_TIMEOUT'];

/** What a peer says when it cannot take us now: too many pending connections at its door, or we were too slow at it. */
const PASSING_REMOTE: readonly string[] = ['GODWIT_LIMIT_EXCEEDED', 'GODWIT_TIMEOUT'];

export interface AttemptParts {
  readonly clock: Clock;
  readonly random: () => number;
  /** From now to the end of the last attempt, in milliseconds. */
  readonly withinMs: number;
  readonly signal: AbortSignal;
}

/** Whether another attempt to connect may go better. An error that the peer tells us is final, as a rule. */
export function isPassing(error: unknown): boolean {
  if (!GodwitError.is(error)) return false;
  return (error.remote ? PASSING_REMOTE : PASSING).includes(error.code);
}

/**
 * Attempts the same again, with growing pauses, until it succeeds, fails for good (`isPassing`), the time is up, or
 * `signal` aborts. When the time is up it rejects with the last attempt's error, or with the reason of the abort.
 */
export async function keepTrying<T>(
  attempt: (signal: AbortSignal) => Promise<T>,
  { clock, random, withinMs, signal }: AttemptParts,
): Promise<T> {
  const window = new AbortController();
  const onStop = () => window.abort(signal.reason);
  if (signal.aborted) onStop();
  else signal.addEventListener('abort', onStop, { once: true });
  const timer = new AbortController();
  let last: GodwitError | undefined;
  clock.sleep(withinMs, timer.signal).then(
    () => window.abort(last ?? new GodwitError('GODWIT_TIMEOUT', 'no attempt came to its end')),
    () => {},
  );
  try {
    for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
      await clock.sleep(pause * (1 - JITTER + 2 * JITTER * random()), window.signal);
      try {
        return await attempt(window.signal);
      } catch (error) {
        if (window.signal.aborted || !isPassing(error)) throw error;
        last = error as GodwitError;
      }
    }
  } finally {
    timer.abort();
    signal.removeEventListener('abort', onStop);
  }
}
