import { callAsync, resultOrNegativeErrno } from './call.js';
import { Errno } from './errno.js';
import { exactArgument, intArgument } from './integer-argument.js';
import { uninterrupted, uninterruptedAsync } from './interrupted.js';
import { cFunction } from './library.js';
import { SyscallError } from './syscall-error.js';

/**
 * The third argument of an ioctl: a buffer that the kernel reads and writes in place, an address, or a plain integer.
 */
export type IoctlArgument = Uint8Array | bigint | number;

const withPointer = cFunction<[number, number, Uint8Array], number>('ioctl', 'int', ['int', 'unsigned long', 'void *']);
const withInteger = cFunction<[number, number, number | bigint], number>('ioctl', 'int', [
  'int',
  'unsigned long',
  'unsigned long',
]);

/**
 * `ioctl(2)`. Returns what the kernel returns (0, a file descriptor, a count). The call is made again while signals interrupt it.
 *
 * @param name the request's name in its header, for the error: `KVM_CREATE_VM`
 * @throws SyscallError on failure, EAGAIN included; see `tryIoctl`. GodwitError GODWIT_INVALID_ARGUMENT for a number that would not
 * reach the kernel unchanged
 */
export function ioctl(fd: number, request: number, argument: IoctlArgument = 0, name?: string): number {
  const result = tryIoctl(fd, request, argument);
  if (result >= 0) return result;
  throw ioctlError(fd, request, -result, name);
}

/**
 * `ioctl(2)` without exceptions: the result, or minus errno, which is never EINTR.
 *
 * @example
 * const version = tryIoctl(kvmFd, KVM_GET_API_VERSION);
 * if (version < 0) console.error(`errno ${-version}`);
 */
export function tryIoctl(fd: number, request: number, argument: IoctlArgument = 0): number {
  const result = tryIoctlOnce(fd, request, argument);
  return result === -Errno.EINTR ? uninterrupted(() => tryIoctlOnce(fd, request, argument)) : result;
}

/** `tryIoctl` for a request that a signal is to interrupt (KVM_RUN): returns minus EINTR then. */
export function tryIoctlOnce(fd: number, request: number, argument: IoctlArgument = 0): number {
  checkArguments(fd, argument);
  return resultOrNegativeErrno(
    typeof argument === 'object' ? withPointer(fd, request, argument) : withInteger(fd, request, argument),
  );
}

/** `ioctl` on a pool thread, see `callAsync`. */
export async function ioctlAsync(
  fd: number,
  request: number,
  argument: IoctlArgument = 0,
  name?: string,
): Promise<number> {
  const result = await tryIoctlAsync(fd, request, argument);
  if (result >= 0) return result;
  throw ioctlError(fd, request, -result, name);
}

/**
 * `tryIoctl` on a pool thread.
 *
 * @example
 * const result = await tryIoctlAsync(fd, request, bytes); // the event loop goes on meanwhile
 */
export async function tryIoctlAsync(fd: number, request: number, argument: IoctlArgument = 0): Promise<number> {
  checkArguments(fd, argument);
  return uninterruptedAsync(() =>
    typeof argument === 'object'
      ? callAsync(withPointer, fd, request, argument)
      : callAsync(withInteger, fd, request, argument),
  );
}

function checkArguments(fd: number, argument: IoctlArgument): void {
  intArgument('the file descriptor of an ioctl', fd);
  if (typeof argument === 'number') exactArgument('the argument of an ioctl', argument);
}

function ioctlError(fd: number, request: number, errno: number, name?: string): SyscallError {
  const hex = `0x${request.toString(16)}`;
  return name === undefined
    ? new SyscallError('ioctl', errno, `${hex} on file descriptor ${fd}`)
    : new SyscallError(name, errno, `on file descriptor ${fd}`);
}
