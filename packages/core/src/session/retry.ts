import type { Clock } from '../clock.js';
import { type ErrorCode, GodwitError } from '../errors.js';

/** The pause before the first attempt, and the longest one; each pause is twice the one before. Milliseconds. */
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5000;

/** The last pause is shortened so that one more attempt begins this many milliseconds before the time is up. */
const LAST_ATTEMPT_MS = 100;

/** Each pause is shortened or lengthened by up to this fraction, so that many migrations do not reconnect at once. */
const JITTER = 0.25;

/** Codes of errors that this side finds in received bytes: the link may have garbled the bytes of a correct peer. */
const GARBLED: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'GODWIT_BAD_STREAM',
  'GODWIT_PROTOCOL',
  'GODWIT_OUT_OF_RANGE',
  'GODWIT_LIMIT_EXCEEDED',
]);

/**
 * The stage of a migration, as far as it decides which errors are retried.
 *
 * - `connecting`: the first connection is being made.
 * - `connected`: a connection in use has failed.
 * - `greeting`: another connection is being made, and its hello is not answered yet.
 * - `after-go`: the destination may be running the guest. Only the destination's answer, or the time limit, ends the attempts.
 */
export type RetryStage = 'connecting' | 'connected' | 'greeting' | 'after-go';

/**
 * Decides whether a migration goes on over another connection after `error`; no other code does. An error of the peer carries the
 * decision (`retry`); for an error of this side the decision depends on the stage.
 */
export function mayRetry(error: unknown, stage: RetryStage): boolean {
  if (!GodwitError.is(error)) return false;
  if (error.remote) return error.retry;
  if (stage === 'connected') return error.retry && error.code === 'GODWIT_LINK_LOST';
  // A peer that answers the first connection wrongly is taken for another program, and no further attempt is made.
  if (stage === 'connecting') return error.retry;
  if (error.retry || GARBLED.has(error.code)) return true;
  // A system call that failed on this side would fail again, for example the rename of a snapshot's file.
  return stage === 'after-go' && error.code !== 'GODWIT_SYSCALL';
}

export interface AttemptParts {
  readonly clock: Clock;
  /** Numbers from 0 to below 1, for the jitter. */
  readonly random: () => number;
  /** Time limit for all attempts together, in milliseconds from now. The attempt under way is aborted when the time is up. */
  readonly withinMs: number;
  readonly signal: AbortSignal;
  readonly stage: RetryStage;
  /** Called after each failed attempt that may be retried, with its error and its number, from 1. */
  readonly onFailure?: (error: GodwitError, attempt: number) => void;
  /** Milliseconds before the first attempt. Default: about 100, since a link was just lost. */
  readonly firstPauseMs?: number;
  /** No attempt begins later than this, in milliseconds from now; an attempt that has begun goes on. Default: `withinMs`. */
  readonly giveUpAfterMs?: number;
}

/**
 * Calls `attempt` again, with growing pauses and a last time just before the time is up, until it succeeds, fails with an error that
 * is not retried (`mayRetry`), the time is up, or `signal` aborts. Rejects with the last attempt's error (`GODWIT_TIMEOUT` when there
 * is none), or with the reason of the abort.
 */
export async function keepTrying<T>(
  attempt: (signal: AbortSignal) => Promise<T>,
  { clock, random, withinMs, signal, stage, onFailure, firstPauseMs, giveUpAfterMs = withinMs }: AttemptParts,
): Promise<T> {
  const window = new AbortController();
  const onStop = () => window.abort(signal.reason);
  if (signal.aborted) onStop();
  else signal.addEventListener('abort', onStop, { once: true });
  const timer = new AbortController();
  let last: GodwitError | undefined;
  clock.sleep(withinMs, timer.signal).then(
    () => window.abort(last ?? new GodwitError('GODWIT_TIMEOUT', `no attempt came to its end within ${withinMs} ms`)),
    () => {},
  );
  const beganAt = clock.now();
  const jittered = (ms: number) => ms * (1 - JITTER + 2 * JITTER * random());
  try {
    let pause = firstPauseMs === undefined ? 2 * FIRST_PAUSE_MS : FIRST_PAUSE_MS;
    let wait = firstPauseMs ?? jittered(FIRST_PAUSE_MS);
    for (let n = 1; ; n++) {
      if (wait > 0) await clock.sleep(wait, window.signal);
      try {
        return await attempt(window.signal);
      } catch (error) {
        if (window.signal.aborted || !mayRetry(error, stage)) throw error;
        last = error as GodwitError;
        onFailure?.(last, n);
      }
      const left = giveUpAfterMs - (clock.now() - beganAt) - LAST_ATTEMPT_MS;
      // Less than a millisecond may be a rounding error, and sleeps that take no time would repeat for ever.
      if (left < 1) throw last;
      wait = Math.min(jittered(pause), left);
      pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
    }
  } finally {
    timer.abort();
    signal.removeEventListener('abort', onStop);
  }
}
