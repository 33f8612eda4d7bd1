import { callAsync, check, checkAsync, resultOrNegativeErrno } from './call.js';
import { cFunction } from './library.js';

/*
 * File descriptors are opened and closed here rather than with `node:fs`: a worker thread closes what it opened with
 * `fs.open` when it ends, and warns about every descriptor that it did not.
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

/** Opens an existing file; the descriptor does not survive an exec. */
export function openFile(path: string, flags: number = OpenFlags.O_RDWR): number {
  return check('open', cOpen(path, flags | OpenFlags.O_CLOEXEC, 0), path);
}

/** `open(2)` with the result as the kernel gives it: a descriptor or minus errno. */
export function tryOpenFile(path: string, flags: number = OpenFlags.O_RDWR): number {
  return resultOrNegativeErrno(cOpen(path, flags | OpenFlags.O_CLOEXEC, 0));
}

export function closeFd(fd: number): void {
  check('close', cClose(fd), `file descriptor ${fd}`);
}

/** `closeFd` on a pool thread (see `callAsync`): the last close of a file may unpin memory, or wait for a device. */
export async function closeFdAsync(fd: number): Promise<void> {
  await checkAsync('close', `file descriptor ${fd}`, cClose, fd);
}

/** A second descriptor of the same open file. */
export function duplicateFd(fd: number): number {
  return check('fcntl F_DUPFD_CLOEXEC', cDup(fd, F_DUPFD_CLOEXEC, 0), `file descriptor ${fd}`);
}

/** `read(2)` into `buffer`: bytes read (0 at the end of the file), or minus errno (EAGAIN on an empty non-blocking fd). */
export function readFd(fd: number, buffer: Uint8Array): number {
  return resultOrNegativeErrno(cRead(fd, buffer, buffer.byteLength));
}

/** `write(2)` from `buffer`: bytes written, or minus errno. */
export function writeFd(fd: number, buffer: Uint8Array): number {
  return resultOrNegativeErrno(cWrite(fd, buffer, buffer.byteLength));
}

/**
 * `readFd` on a pool thread (see `callAsync`), for descriptors that make their bytes while we wait: a device's state.
 * Do not close the descriptor before this has resolved: its number may be somebody else's by the time it is read.
 */
export function readFdAsync(fd: number, buffer: Uint8Array): Promise<number> {
  return callAsync(cRead, fd, buffer, buffer.byteLength);
}

/** `writeFd` on a pool thread; the same rules. */
export function writeFdAsync(fd: number, buffer: Uint8Array): Promise<number> {
  return callAsync(cWrite, fd, buffer, buffer.byteLength);
}

/** A new event counter; close-on-exec, and non-blocking unless `flags` says otherwise. */
export function eventfd(initial = 0, flags: number = EventfdFlags.EFD_NONBLOCK): number {
  return check('eventfd', cEventfd(initial, flags | EventfdFlags.EFD_CLOEXEC));
}
