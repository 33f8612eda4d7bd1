import {
  closeFd,
  closeFdAsync,
  type IoctlArgument,
  OpenFlags,
  openDevice,
  readFdAsync,
  tryIoctl,
  tryIoctlAsync,
  writeFdAsync,
} from '@godwit/linux/unstable';

/**
 * The system calls that this package makes. Everything goes through it, so that the same code runs on the kernel and on
 * the model of it in `@godwit/vfio/testing`.
 *
 * Results are the kernel's: what the call returns, or minus errno.
 */
export interface KernelPort {
  /** Opens a device node, close-on-exec. Throws a `SyscallError` that says what to do. */
  open(path: string): number;
  /** close(2). */
  close(fd: number): void;
  /** On a pool thread: the last close of a file unpins memory, or resets a device. Without it `close` is called. */
  closeAsync?(fd: number): Promise<void>;
  /** For calls that are done in microseconds. */
  ioctl(fd: number, request: number, argument?: IoctlArgument): number;
  /** On a pool thread: pins memory, moves a device, or waits for a lock that such a call holds. */
  ioctlAsync(fd: number, request: number, argument?: IoctlArgument): Promise<number>;
  /** On a pool thread. The descriptor must stay open, and the buffer untouched, until it resolves. */
  read(fd: number, buffer: Uint8Array): Promise<number>;
  /** On a pool thread; the same rules. */
  write(fd: number, buffer: Uint8Array): Promise<number>;
}

/** The kernel that this process runs on. */
export const linuxKernel: KernelPort = {
  open: (path) => openDevice(path, OpenFlags.O_RDWR),
  close: closeFd,
  closeAsync: closeFdAsync,
  ioctl: tryIoctl,
  ioctlAsync: tryIoctlAsync,
  read: readFdAsync,
  write: writeFdAsync,
};
