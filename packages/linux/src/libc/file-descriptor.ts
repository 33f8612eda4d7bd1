import { callAsync, check, resultOrNegativeErrno } from './call.js';
import { Errno } from './errno.js';
import { intArgument, sizeArgument } from './integer-argument.js';
import { uninterrupted, uninterruptedAsync } from './interrupted.js';
import { cFunction } from './library.js';
import { SyscallError } from './syscall-error.js';

/*
 * File descriptors are opened and closed here rather than with `node:fs`: when it ends, a worker thread closes the descriptors that it
 * opened with `fs.open`, and warns when one of them was closed elsewhere.
 */
const cOpen = cFunction<[string, number, number], number>('open', 'int', ['const char *', 'int', 'unsigned int']);
const cClose = cFunction<[number], number>('close', 'int', ['int']);
const cRead = cFunction<[number, Uint8Array, number], number>('read', 'long', ['int', 'void *', 'size_t']);
const cWrite = cFunction<[number, Uint8Array, number], number>('write', 'long', ['int', 'const void *', 'size_t']);
const cDup = cFunction<[number, number, number], number>('fcntl', 'int', ['int', 'int', 'long']);
const cEventfd = cFunction<[number, number], number>('eventfd', 'int', ['unsigned int', 'int']);

/** asm-generic/fcntl.h */
export const OpenFlags = { O_RDONLY: 0, O_WRONLY: 1, O_RDWR: 2, O_NONBLOCK: 0o4000, O_CLOEXEC: 0o2000000 } as const;
/** sys/eventfd.h */
export const EventfdFlags = { EFD_SEMAPHORE: 1, EFD_NONBLOCK: 0o4000, EFD_CLOEXEC: 0o2000000 } as const;
/** asm-generic/fcntl.h: F_LINUX_SPECIFIC_BASE (1024) + 6 */
const F_DUPFD_CLOEXEC = 1030;
const DESCRIPTOR = 'a file descriptor';

/**
 * Opens an existing file; the descriptor does not survive an exec.
 *
 * @example
 * const fd = openFile('/dev/vfio/vfio');
 */
export function openFile(path: string, flags: number = OpenFlags.O_RDWR): number {
  const result = tryOpenFile(path, flags);
  if (result >= 0) return result;
  throw new SyscallError('open', -result, path);
}

/** `open(2)` with the kernel's result: a descriptor or minus errno. */
export function tryOpenFile(path: string, flags: number = OpenFlags.O_RDWR): number {
  return uninterrupted(() => resultOrNegativeErrno(cOpen(path, flags | OpenFlags.O_CLOEXEC, 0)));
}

/**
 * `close(2)`. A call that a signal interrupts has closed the descriptor (Linux; close(2), "Dealing with error returns").
 *
 * @throws SyscallError EBADF when it is not open: some code has closed a descriptor that it does not own
 * @example
 * const fd = openFile('/dev/kvm');
 * closeFd(fd);
 */
export function closeFd(fd: number): void {
  closed(resultOrNegativeErrno(cClose(intArgument(DESCRIPTOR, fd))), fd);
}

/**
 * `closeFd` on a pool thread: the last descriptor of a device or of an IOMMU's address space unpins memory, or waits for firmware. The
 * number may be another file's from the moment of the call on.
 */
export async function closeFdAsync(fd: number): Promise<void> {
  closed(await callAsync(cClose, intArgument(DESCRIPTOR, fd)), fd);
}

function closed(result: number, fd: number): void {
  if (result < 0 && result !== -Errno.EINTR) throw new SyscallError('close', -result, `file descriptor ${fd}`);
}

/** Makes a second descriptor of the same open file. */
export function duplicateFd(fd: number): number {
  return check('fcntl F_DUPFD_CLOEXEC', cDup(intArgument(DESCRIPTOR, fd), F_DUPFD_CLOEXEC, 0), `file descriptor ${fd}`);
}

/**
 * `read(2)` into `buffer`: bytes read (0 at the end of the file), or minus errno (EAGAIN on an empty non-blocking fd, EINTR when a
 * signal ends the wait: `signalThread`).
 *
 * @example
 * const count = readFd(fd, buffer);
 * if (count < 0) console.error(`errno ${-count}`);
 */
export function readFd(fd: number, buffer: Uint8Array): number {
  return resultOrNegativeErrno(cRead(intArgument(DESCRIPTOR, fd), buffer, buffer.byteLength));
}

/** `write(2)` from `buffer`: bytes written, or minus errno; EINTR as with `readFd`. */
export function writeFd(fd: number, buffer: Uint8Array): number {
  return resultOrNegativeErrno(cWrite(intArgument(DESCRIPTOR, fd), buffer, buffer.byteLength));
}

/**
 * `readFd` on a pool thread (see `callAsync`), for descriptors that make their bytes during the read, as a device's state. Do not
 * close the descriptor before the promise has resolved: its number may be another file's when it is read. The call is made again while
 * signals interrupt it.
 */
export async function readFdAsync(fd: number, buffer: Uint8Array): Promise<number> {
  intArgument(DESCRIPTOR, fd);
  return uninterruptedAsync(() => callAsync(cRead, fd, buffer, buffer.byteLength));
}

/** `writeFd` on a pool thread, with the same rules. */
export async function writeFdAsync(fd: number, buffer: Uint8Array): Promise<number> {
  intArgument(DESCRIPTOR, fd);
  return uninterruptedAsync(() => callAsync(cWrite, fd, buffer, buffer.byteLength));
}

/**
 * Makes an event counter, close-on-exec and, unless `flags` is given, non-blocking.
 *
 * @example
 * const fd = eventfd();
 * readFd(fd, new Uint8Array(8)); // minus EAGAIN until somebody writes
 */
export function eventfd(initial = 0, flags: number = EventfdFlags.EFD_NONBLOCK): number {
  return check(
    'eventfd',
    cEventfd(
      sizeArgument('the first value of an event counter', initial, 0xffff_ffff),
      flags | EventfdFlags.EFD_CLOEXEC,
    ),
  );
}
