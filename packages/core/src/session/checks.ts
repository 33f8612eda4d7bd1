import type { Clock } from '../clock.js';

/**
 * Milliseconds since the check before, at every `pauseMs`, for those who wait for silence: what has arrived while this process was blocked is
 * read before a check, and of that time at most two pauses count. Throws the reason of `signal` once it aborts.
 */
export async function* checks(clock: Clock, pauseMs: number, signal: AbortSignal): AsyncGenerator<number, never> {
  for (let checkedAt = clock.now(); ; ) {
    await clock.sleep(pauseMs, signal);
    await clock.yield();
    signal.throwIfAborted();
    const elapsed = Math.min(clock.now() - checkedAt, 2 * pauseMs);
    checkedAt = clock.now();
    yield elapsed;
  }
}
