import { tryIoctlOnce } from '../libc/index.js';
import { KvmVcpuRequest } from './kvm-constants.js';

/**
 * KVM_RUN on the calling thread: enters the guest, which blocks the thread until the guest needs something.
 *
 * @returns 0 when there is an exit to handle, else minus errno: -EINTR after a signal or with `immediateExit` set,
 * -EAGAIN when the vCPU waits for a start-up interrupt
 */
export function runVcpu(vcpuFd: number): number {
  return tryIoctlOnce(vcpuFd, KvmVcpuRequest.KVM_RUN, 0);
}
