import type { Clock } from './clock.js';

/**
 * The reason with which every unneeded timer is aborted. All timers share it, since `abort()` without a reason makes an exception each
 * time.
 */
const SETTLED = new Error('settled');

/**
 * Settles as `promise` does, or rejects with the result of `late` after `ms` milliseconds. The work behind the promise goes on; its
 * later rejection is ignored. Leaves no timer behind.
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

/** Resolves when `promise` has resolved or rejected, or after `ms` milliseconds. Never rejects. */
export async function settledWithin(promise: Promise<unknown>, clock: Clock, ms: number): Promise<void> {
  const settled = new AbortController();
  const timer = clock.sleep(ms, settled.signal).catch(() => {});
  await Promise.race([promise.catch(() => {}), timer]);
  settled.abort(SETTLED);
}
