import { callAsync, resultOrNegativeErrno } from './call.js';
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
 * `ioctl(2)`. Returns what the kernel returns (0, a file descriptor, a count).
 *
 * @param name the request's name in its header, for the error: `KVM_CREATE_VM`
 * @throws SyscallError on failure, EINTR and EAGAIN included; see `tryIoctl`
 */
export function ioctl(fd: number, request: number, argument: IoctlArgument = 0, name?: string): number {
  const result = tryIoctl(fd, request, argument);
  if (result >= 0) return result;
  throw ioctlError(fd, request, -result, name);
}

/** `ioctl(2)` without exceptions: the result, or minus errno. */
export function tryIoctl(fd: number, request: number, argument: IoctlArgument = 0): number {
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

/** `tryIoctl` on a pool thread. */
export function tryIoctlAsync(fd: number, request: number, argument: IoctlArgument = 0): Promise<number> {
  return typeof argument === 'object'
    ? callAsync(withPointer, fd, request, argument)
    : callAsync(withInteger, fd, request, argument);
}

function ioctlError(fd: number, request: number, errno: number, name?: string): SyscallError {
  const hex = `0x${request.toString(16)}`;
  return name === undefined
    ? new SyscallError('ioctl', errno, `${hex} on file descriptor ${fd}`)
    : new SyscallError(name, errno, `on file descriptor ${fd}`);
}
