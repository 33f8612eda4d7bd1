import { getPriority, setPriority } from 'node:os';
import { setTimeSlice } from '@godwit/linux/unstable/libc';

const LEAST_PRIORITY = 19;
const MOST_PRIORITY = -20;

/** What an urgent thread wants to run at a time, in nanoseconds: the least that the kernel takes. */
const URGENT_SLICE_NS = 100_000;
/** It comes before the guest's vCPUs and the threads that move pages, where the process may say so. */
const URGENT = -10;

/**
 * Adds to the nice value of the calling thread; Linux has one for each thread, and 0 names the calling one (setpriority(2)). Where that is
 * not allowed (a sandbox may forbid the call) the thread stays as it is.
 */
export function beNicerBy(by: number): void {
  try {
    setPriority(0, niceness(by));
  } catch {
    // The threads then have the same priority.
  }
}

/**
 * Lets the calling thread run as soon as it has something to do, for a moment: a vCPU waits for what it does. Without the right to a lower
 * nice value (CAP_SYS_NICE) it keeps its own.
 */
export function beUrgent(): void {
  if (setTimeSlice(niceness(URGENT), URGENT_SLICE_NS) < 0) setTimeSlice(niceness(0), URGENT_SLICE_NS);
}

function niceness(by: number): number {
  return Math.min(LEAST_PRIORITY, Math.max(MOST_PRIORITY, getPriority(0) + by));
}
