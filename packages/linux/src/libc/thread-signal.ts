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
 * `struct sigaction` as the C library sees it on 64-bit Linux (bits/sigaction.h): handler 0, mask 8, flags 136 (int),
 * restorer 144; 152 bytes. musl has the same layout.
 */
const SIGACTION_BYTES = 152;

/** The kernel's id of the calling thread, for `signalThread`. */
export function getThreadId(): number {
  return cSyscall(syscallNumbers().gettid, 0, 0, 0);
}

/**
 * Installs a handler that does nothing for `signal`, in the whole process: delivery then interrupts a blocking system
 * call (KVM_RUN returns EINTR) instead of ending the process. Without SA_RESTART, which is the point.
 *
 * A JavaScript function cannot be a signal handler, so the handler is the C library's `abs`: it takes an int, touches
 * nothing and returns.
 *
 * @throws RangeError when `signal` is not a real-time signal: all others may have a meaning to Node
 */
export function installWakeSignal(signal: number = WAKE_SIGNAL): void {
  if (!Number.isInteger(signal) || signal < 34 || signal > 64) {
    throw new RangeError(`the wake signal is a real-time signal, 34 to 64 (signal(7)), got ${signal}`);
  }
  const action = new BigUint64Array(SIGACTION_BYTES / 8);
  action[0] = cFunctionAddress('abs');
  check('sigaction', cSigaction(signal, new Uint8Array(action.buffer), null), `for signal ${signal}`);
}

/**
 * Sends `signal` to one thread of this process.
 *
 * @returns false when the thread no longer exists
 */
export function signalThread(threadId: number, signal: number = WAKE_SIGNAL): boolean {
  const result = resultOrNegativeErrno(cSyscall(syscallNumbers().tgkill, process.pid, threadId, signal));
  if (result === -constants.errno.ESRCH) return false;
  if (result < 0) throw new SyscallError('tgkill', -result, `signal ${signal} to thread ${threadId}`);
  return true;
}
