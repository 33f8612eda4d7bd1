import { constants } from 'node:os';
import { check, resultOrNegativeErrno } from './call.js';
import { cFunction, cFunctionAddress } from './library.js';
import { SyscallError } from './syscall-error.js';
import { syscallNumbers } from './syscall-number.js';

const cSigaction = cFunction<[number, Uint8Array | null, Uint8Array | null], number>('sigaction', 'int', [
  'int',
  'void *',
  'void *',
]);
const cSyscall = cFunction<[number, number, number, number], number>('syscall', 'long', [
  'long',
  'long',
  'long',
  'long',
]);

/** glibc's first real-time signal after the two that its threads keep (SIGRTMIN in the C library), plus room. */
export const WAKE_SIGNAL = 40;

/**
 * `struct sigaction` as the C library has it on 64-bit Linux (bits/sigaction.h; musl's is the same). The kernel's own
 * struct differs: it has the flags before the mask.
 */
export const SIGACTION = {
  size: 152,
  fields: { sa_handler: [0, 8], sa_mask: [8, 128], sa_flags: [136, 4] },
} as const;

/**
 * The kernel's id of the calling thread, for `signalThread`.
 *
 * @example
 * parentPort.postMessage({ threadId: getThreadId() }); // for `signalThread` of another thread
 */
export function getThreadId(): number {
  return cSyscall(syscallNumbers().gettid, 0, 0, 0);
}

/**
 * Installs a handler that does nothing for `signal`, in the whole process: delivery then interrupts a blocking system
 * call (KVM_RUN returns EINTR) instead of ending the process. It is installed without SA_RESTART, which would make the
 * call go on.
 *
 * A JavaScript function cannot be a signal handler, so the handler is the C library's `abs`: it takes an int, touches
 * nothing and returns.
 *
 * @throws RangeError when `signal` is not a real-time signal: Node may use all others
 * @example
 * installWakeSignal(); // once, before the first vCPU runs
 */
export function installWakeSignal(signal: number = WAKE_SIGNAL): void {
  if (!Number.isInteger(signal) || signal < 34 || signal > 64) {
    throw new RangeError(`the wake signal is a real-time signal, 34 to 64 (signal(7)), got ${signal}`);
  }
  const action = new Uint8Array(SIGACTION.size);
  new DataView(action.buffer).setBigUint64(SIGACTION.fields.sa_handler[0], cFunctionAddress('abs'), true);
  check('sigaction', cSigaction(signal, action, null), `for signal ${signal}`);
}

/**
 * Sends `signal` to one thread of this process.
 *
 * @returns false when the thread no longer exists
 * @example
 * signalThread(threadId); // KVM_RUN of that thread returns EINTR
 */
export function signalThread(threadId: number, signal: number = WAKE_SIGNAL): boolean {
  const result = resultOrNegativeErrno(cSyscall(syscallNumbers().tgkill, process.pid, threadId, signal));
  if (result === -constants.errno.ESRCH) return false;
  if (result < 0) throw new SyscallError('tgkill', -result, `signal ${signal} to thread ${threadId}`);
  return true;
}
