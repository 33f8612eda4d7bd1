import type { Clock } from '../clock.js';

/**
 * Yields, every `pauseMs`, the milliseconds since the check before, for loops that wait for silence. Bytes that have arrived while this
 * process was blocked are read before a check, and at most two pauses of the blocked time count. Throws the reason of `signal` once it
 * aborts.
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
