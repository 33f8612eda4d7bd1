import type { Clock } from './clock.js';

/** One for all timers that are not needed any more: `abort()` without a reason makes an exception with a stack. */
const SETTLED = new Error('settled');

/**
 * Settles as `promise` does, or rejects with what `late` makes after `ms` milliseconds. The promise itself goes on; a
 * rejection that comes too late is swallowed here. Leaves no timer behind.
 */
export async function inTime<T>(promise: Promise<T>, clock: Clock, ms: number, late: () => Error): Promise<T> {
  const settled = new AbortController();
  const timer = clock.sleep(ms, settled.signal).then(() => {
    throw late();
  });
  timer.catch(() => {});
  try {
    return await Promise.race([promise, timer]);
  } finally {
    settled.abort(SETTLED);
  }
}

/** Resolves when `promise` has settled, whichever way, or after `ms` milliseconds. Never rejects. */
export async function settledWithin(promise: Promise<unknown>, clock: Clock, ms: number): Promise<void> {
  const settled = new AbortController();
  const timer = clock.sleep(ms, settled.signal).catch(() => {});
  await Promise.race([promise.catch(() => {}), timer]);
  settled.abort(SETTLED);
}
