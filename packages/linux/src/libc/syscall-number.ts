import { GodwitError } from '@godwit/core/errors';
import { check } from './call.js';
import { cFunction } from './library.js';

/** System calls for which the C library has no function, or only a recent one. */
export interface SyscallNumbers {
  readonly gettid: number;
  readonly tgkill: number;
  readonly userfaultfd: number;
  readonly sched_setattr: number;
}

/** For each processor, as Node names it. */
export const SYSCALLS: Readonly<Record<string, SyscallNumbers>> = {
  /** asm/unistd_64.h */
  x64: { gettid: 186, tgkill: 234, userfaultfd: 323, sched_setattr: 314 },
  /** asm-generic/unistd.h */
  arm64: { gettid: 178, tgkill: 131, userfaultfd: 282, sched_setattr: 274 },
  riscv64: { gettid: 178, tgkill: 131, userfaultfd: 282, sched_setattr: 274 },
};

/** The numbers for this machine. */
export function syscallNumbers(): SyscallNumbers {
  const numbers = SYSCALLS[process.arch];
  if (numbers === undefined) {
    throw new GodwitError(
      'GODWIT_UNSUPPORTED',
      `Godwit knows the Linux system calls of ${Object.keys(SYSCALLS).join(', ')}; this is ${process.arch}`,
    );
  }
  return numbers;
}

const cSyscall = cFunction<[number, number], number>('syscall', 'long', ['long', 'long']);

/** linux/userfaultfd.h: only faults in user mode, which an unprivileged process may ask for. */
export const UFFD_USER_MODE_ONLY = 1;

/** `userfaultfd(2)`: makes a userfaultfd. Close-on-exec and non-blocking, plus `flags`. */
export function userfaultfd(flags = 0): number {
  return check('userfaultfd', cSyscall(syscallNumbers().userfaultfd, flags | 0o2000000 | 0o4000));
}
