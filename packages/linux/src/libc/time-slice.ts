import { resultOrNegativeErrno } from './call.js';
import { cFunction } from './library.js';
import { syscallNumbers } from './syscall-number.js';

/** `struct sched_attr`, linux/sched/types.h: its first version, of 48 bytes. */
const ATTR_BYTES = 48;
const Offset = { size: 0, policy: 4, nice: 16, runtime: 24 } as const;

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
  const attr = new DataView(new ArrayBuffer(ATTR_BYTES));
  attr.setUint32(Offset.size, ATTR_BYTES, true);
  // SCHED_OTHER.
  attr.setUint32(Offset.policy, 0, true);
  attr.setInt32(Offset.nice, nice, true);
  attr.setBigUint64(Offset.runtime, BigInt(sliceNs), true);
  return resultOrNegativeErrno(cSyscall(syscallNumbers().sched_setattr, 0, new Uint8Array(attr.buffer), 0));
}
