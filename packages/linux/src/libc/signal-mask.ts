import { cFunction } from './library.js';
import { SyscallError } from './syscall-error.js';

/** Returns an error number, and does not set `errno` (pthread_sigmask(3)). */
const cSigmask = cFunction<[number, Uint8Array, Uint8Array | null], number>('pthread_sigmask', 'int', [
  'int',
  'void *',
  'void *',
]);

/** asm-generic/signal-defs.h */
const SIG_SETMASK = 2;
/** `sigset_t` of the C library (bits/types/__sigset_t.h), in bytes; musl's is the same. */
const SIGSET_BYTES = 128;

/**
 * Runs `call` with all signals of this thread held back; they are delivered right after it. Use it only for calls of
 * microseconds: meanwhile only SIGKILL ends the process.
 */
export function withSignalsHeld<T>(call: () => T): T {
  const before = new Uint8Array(SIGSET_BYTES);
  setMask(new Uint8Array(SIGSET_BYTES).fill(0xff), before);
  try {
    return call();
  } finally {
    setMask(before, null);
  }
}

function setMask(mask: Uint8Array, before: Uint8Array | null): void {
  const errno = cSigmask(SIG_SETMASK, mask, before);
  if (errno !== 0) throw new SyscallError('pthread_sigmask', errno, '');
}
