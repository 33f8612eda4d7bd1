/** Readings this far apart, in milliseconds, were not taken by a thread that ran all the time. */
const UNDISTURBED_MS = 0.02;
const MOST_ATTEMPTS = 1000;

/**
 * CLOCK_MONOTONIC in microseconds, from `performance.now()`, which allocates nothing. Each thread has its own time
 * origin, so each makes its own clock; they agree within some microseconds.
 *
 * The origin is the difference of two clocks that cannot be read at once. A thread that loses its processor between the
 * two would be behind all others from then on, and a guest whose vCPU moves to that thread would see time go back. So
 * the readings that lie closest together count.
 */
export function monotonicMicroseconds(): () => number {
  let origin = 0;
  let closest = Number.POSITIVE_INFINITY;
  for (let attempt = 0; attempt < MOST_ATTEMPTS && closest > UNDISTURBED_MS; attempt++) {
    const before = performance.now();
    const monotonic = Number(process.hrtime.bigint()) / 1000;
    const after = performance.now();
    if (after - before >= closest) continue;
    closest = after - before;
    origin = monotonic - ((before + after) / 2) * 1000;
  }
  return () => origin + performance.now() * 1000;
}
