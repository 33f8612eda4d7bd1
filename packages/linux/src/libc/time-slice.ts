import { resultOrNegativeErrno } from './call.js';
import { cFunction } from './library.js';
import { syscallNumbers } from './syscall-number.js';

/** `struct sched_attr`, linux/sched/types.h: its first version, of 48 bytes. */
const ATTR_BYTES = 48;
const Offset = { size: 0, policy: 4, flags: 8, nice: 16, priority: 20, runtime: 24 } as const;
/** linux/sched.h */
const Policy = { SCHED_OTHER: 0, SCHED_FIFO: 1 } as const;
/** linux/sched.h: threads that this thread starts are not of this policy. */
const SCHED_FLAG_RESET_ON_FORK = 1;

const cSyscall = cFunction<[number, number, Uint8Array, number], number>('syscall', 'long', [
  'long',
  'long',
  'void *',
  'long',
]);

/**
 * Sets the nice value of the calling thread, and how long it wants to run at a time, in nanoseconds (0.1 to 100 ms). From Linux 6.12 on a
 * thread with a short slice that wakes up runs before one with a longer slice that is running (PREEMPT_SHORT); older kernels accept the
 * call and set only the nice value. Returns 0, or minus errno: EPERM for a nice value that this process may not have.
 */
export function setTimeSlice(nice: number, sliceNs: number): number {
  const attr = attributes(Policy.SCHED_OTHER);
  attr.setInt32(Offset.nice, nice, true);
  attr.setBigUint64(Offset.runtime, BigInt(sliceNs), true);
  return set(attr);
}

/**
 * Lets the calling thread run before every thread of the usual policy, as soon as it wakes up (SCHED_FIFO of the lowest priority; by
 * default the kernel leaves a twentieth of each second to the others). Threads that it starts are not affected. Returns 0, or minus errno:
 * EPERM where this process may not (CAP_SYS_NICE, RLIMIT_RTPRIO).
 */
export function setRealTime(): number {
  const attr = attributes(Policy.SCHED_FIFO);
  attr.setBigUint64(Offset.flags, BigInt(SCHED_FLAG_RESET_ON_FORK), true);
  attr.setUint32(Offset.priority, 1, true);
  return set(attr);
}

function attributes(policy: number): DataView<ArrayBuffer> {
  const attr = new DataView(new ArrayBuffer(ATTR_BYTES));
  attr.setUint32(Offset.size, ATTR_BYTES, true);
  attr.setUint32(Offset.policy, policy, true);
  return attr;
}

function set(attr: DataView<ArrayBuffer>): number {
  return resultOrNegativeErrno(cSyscall(syscallNumbers().sched_setattr, 0, new Uint8Array(attr.buffer), 0));
}
