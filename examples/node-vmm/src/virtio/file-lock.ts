import { cFunction, Errno, intArgument, resultOrNegativeErrno, SyscallError } from '@godwit/linux/unstable/libc';

const cFcntl = cFunction<[number, number, Uint8Array], number>('fcntl', 'int', ['int', 'int', 'void *']);

/** Locks of open files, and not of processes (fcntl(2), "Open file description locks"): asm-generic/fcntl.h. */
const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const LOCK_TYPES = { shared: 0, exclusive: 1, none: 2 } as const;
/** `struct flock` of x86-64: type and base, 16 bits each; start and length, 64 bits each; a process. Zeros mean the whole file. */
const LOCK_BYTES = 32;
const DESCRIPTOR = 'a file descriptor';

type LockType = keyof typeof LOCK_TYPES;

/**
 * Locks an open file: until it is unlocked, or its last descriptor is closed.
 *
 * @returns false when another open file has a lock that excludes it
 * @throws SyscallError when its file system has no locks
 */
export function tryLockFile(fd: number, how: Exclude<LockType, 'none'>): boolean {
  const result = lock(fd, F_OFD_SETLK, request(how));
  if (result === -Errno.EAGAIN || result === -Errno.EACCES) return false;
  if (result < 0) throw new SyscallError('fcntl', -result, `${how} lock, file descriptor ${fd}`);
  return true;
}

/** Whether `tryLockFile` would lock the file now. Locks nothing. @throws SyscallError when its file system has no locks */
export function mayLockFile(fd: number, how: Exclude<LockType, 'none'>): boolean {
  const answer = request(how);
  const result = lock(fd, F_OFD_GETLK, answer);
  if (result < 0) throw new SyscallError('fcntl', -result, `test for a ${how} lock, file descriptor ${fd}`);
  return new DataView(answer.buffer).getInt16(0, true) === LOCK_TYPES.none;
}

export function unlockFile(fd: number): void {
  const result = lock(fd, F_OFD_SETLK, request('none'));
  if (result < 0) throw new SyscallError('fcntl', -result, `unlock, file descriptor ${fd}`);
}

function lock(fd: number, command: number, flock: Uint8Array): number {
  return resultOrNegativeErrno(cFcntl(intArgument(DESCRIPTOR, fd), command, flock));
}

function request(type: LockType): Uint8Array<ArrayBuffer> {
  const flock = new Uint8Array(LOCK_BYTES);
  new DataView(flock.buffer).setInt16(0, LOCK_TYPES[type], true);
  return flock;
}
