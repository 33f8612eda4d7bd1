/** Two readings of the clock that are at most this far apart, in milliseconds, were not interrupted. */
const UNDISTURBED_MS = 0.02;
const MOST_ATTEMPTS = 1000;

/**
 * Makes a function that returns CLOCK_MONOTONIC in microseconds, from `performance.now()`, which allocates nothing. Each thread has its
 * own time origin and makes its own clock; the clocks agree within some microseconds.
 *
 * The origin is the difference of two clocks that cannot be read at the same time. If the thread were preempted between the two
 * readings, its clock would be behind all others, and a guest that compares two vCPUs' clocks would see time go back. Therefore the two
 * readings that are closest together count.
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
