import { getPriority, setPriority } from 'node:os';
import { setRealTime, setTimeSlice } from '@godwit/linux/unstable/libc';

const LEAST_PRIORITY = 19;
const MOST_PRIORITY = -20;

/** The time slice of an urgent thread, in nanoseconds: the shortest that the kernel accepts. */
const URGENT_SLICE_NS = 100_000;
/**
 * The nice value of an urgent thread, with which it comes before the guest's vCPUs and the threads that move pages, where the process may
 * set it.
 */
const URGENT = -10;

/**
 * Adds to the nice value of the calling thread; Linux has one for each thread, and 0 names the calling one (setpriority(2)). Where the
 * call is not allowed (in a sandbox) the nice value stays as it is.
 */
export function beNicerBy(by: number): void {
  try {
    setPriority(0, niceness(by));
  } catch {
    // The threads keep the same priority.
  }
}

/**
 * Lets the calling thread run as soon as it has work, for a short time, since a vCPU waits for that work. Without the right to lower its
 * nice value (CAP_SYS_NICE) the thread keeps it.
 */
export function beUrgent(): void {
  if (setTimeSlice(niceness(URGENT), URGENT_SLICE_NS) < 0) setTimeSlice(niceness(0), URGENT_SLICE_NS);
}

/**
 * Lets the calling thread run as soon as it has work, before every other thread of the usual policy: a vCPU waits for that work. A low nice
 * value would not do, since it gives a thread more time but not the next time: it waits while another thread that has just woken up uses
 * its share, which is milliseconds. The thread must sleep whenever it has no work. Where the process may not have this priority
 * (CAP_SYS_NICE, RLIMIT_RTPRIO) the thread is urgent as `beUrgent` says. Returns whether it has the priority: polling for some microseconds
 * then keeps its processor, which `sched_yield` gives to threads of this priority only.
 */
export function beFirst(): boolean {
  if (setRealTime() >= 0) return true;
  beUrgent();
  return false;
}

function niceness(by: number): number {
  return Math.min(LEAST_PRIORITY, Math.max(MOST_PRIORITY, getPriority(0) + by));
}
