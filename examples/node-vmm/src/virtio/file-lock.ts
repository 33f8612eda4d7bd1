import { cFunction, Errno, intArgument, resultOrNegativeErrno, SyscallError } from '@godwit/linux/unstable/libc';

const cFlock = cFunction<[number, number], number>('flock', 'int', ['int', 'int']);

/** sys/file.h. */
const OPERATIONS = { shared: 1, exclusive: 2 } as const;
const DO_NOT_WAIT = 4;
const UNLOCK = 8;

/**
 * Locks an open file with flock(2): until it is unlocked, or its last descriptor is closed.
 *
 * @returns false when another open file has a lock that excludes it
 * @throws SyscallError when its file system has no locks
 */
export function tryLockFile(fd: number, how: keyof typeof OPERATIONS): boolean {
  const result = resultOrNegativeErrno(cFlock(intArgument('a file descriptor', fd), OPERATIONS[how] | DO_NOT_WAIT));
  if (result === -Errno.EAGAIN) return false;
  if (result < 0) throw new SyscallError('flock', -result, `${how}, file descriptor ${fd}`);
  return true;
}

export function unlockFile(fd: number): void {
  const result = resultOrNegativeErrno(cFlock(intArgument('a file descriptor', fd), UNLOCK));
  if (result < 0) throw new SyscallError('flock', -result, `unlock, file descriptor ${fd}`);
}
