/**
 * A throttled vCPU runs for a slice and then sleeps, like QEMU's (CPU_THROTTLE_TIMESLICE_NS in system/cpu-throttle.c,
 * which is 10 ms as well).
 */
export const THROTTLE_SLICE_MS = 10;

/** The largest fraction, with which a slice and its sleep take a second; QEMU's limit is the same. */
const MOST = 0.99;

/** The word on the board for the fraction of time in which vCPUs do not run, in thousandths. */
export function throttleWord(fraction: number): number {
  if (!(fraction >= 0 && fraction <= 1)) throw new RangeError(`a throttle is between 0 and 1, got ${fraction}`);
  return Math.round(Math.min(fraction, MOST) * 1000);
}

/** Milliseconds to sleep after a slice. */
export function throttleSleep(word: number): number {
  return (THROTTLE_SLICE_MS * word) / (1000 - word);
}
