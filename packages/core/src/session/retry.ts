import type { Clock } from '../clock.js';
import { type ErrorCode, GodwitError } from '../errors.js';

/** The pause before the first attempt, and the longest one; each is twice the one before. Milliseconds. */
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5000;

/** A pause that would reach beyond the end is cut so that one more attempt begins so long before it. Milliseconds. */
const LAST_ATTEMPT_MS = 100;

/** Each pause is shortened or lengthened by up to a quarter, so that many migrations do not come back in one moment. */
const JITTER = 0.25;

/** Noticed here, of bytes that came: the peer may be well, and the link have garbled them. */
const GARBLED: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'GODWIT_BAD_STREAM',
  'GODWIT_PROTOCOL',
  'GODWIT_OUT_OF_RANGE',
  'GODWIT_LIMIT_EXCEEDED',
]);

/**
 * Where a migration stands, as far as that decides what may be tried again. `connecting`: the first connection. `connected`: one
 * that was in use. `greeting`: another one is being made, and nothing of it was believed yet. `after-go`: the destination may be
 * running the guest, and nothing but its own word, or time, ends the asking.
 */
export type RetryStage = 'connecting' | 'connected' | 'greeting' | 'after-go';

/**
 * The only place that decides whether a migration goes on over another connection after `error`. An error that the peer has told
 * says so itself; one that was noticed here depends on what is at stake.
 */
export function mayRetry(error: unknown, stage: RetryStage): boolean {
  if (!GodwitError.is(error)) return false;
  if (error.remote) return error.retry;
  if (stage === 'connected') return error.retry && error.code === 'GODWIT_LINK_LOST';
  // Whoever answers at first, and wrongly, is not who was meant.
  if (stage === 'connecting') return error.retry;
  if (error.retry || GARBLED.has(error.code)) return true;
  // A system call that failed here, for good: a snapshot that cannot be given its name.
  return stage === 'after-go' && error.code !== 'GODWIT_SYSCALL';
}

export interface AttemptParts {
  readonly clock: Clock;
  /** Numbers from 0 to below 1, for the jitter. */
  readonly random: () => number;
  /** From now to the end of the last attempt, in milliseconds. */
  readonly withinMs: number;
  readonly signal: AbortSignal;
  readonly stage: RetryStage;
  /** Hears of each attempt that failed and is made again. */
  readonly onFailure?: (error: GodwitError, attempt: number) => void;
  /** Milliseconds before the first attempt. Default: a pause, since something was just lost. */
  readonly firstPauseMs?: number;
  /** No attempt begins later than this, in milliseconds from now; one that has begun may last. Default: `withinMs`. */
  readonly giveUpAfterMs?: number;
}

/**
 * Attempts the same again, with growing pauses and a last time just before the end, until it succeeds, fails for good (`mayRetry`), the time is up, or
 * `signal` aborts. When the time is up it rejects with the last attempt's error, or with the reason of the abort.
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
      if (left <= 0) throw last;
      wait = Math.min(jittered(pause), left);
      pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
    }
  } finally {
    timer.abort();
    signal.removeEventListener('abort', onStop);
  }
}
