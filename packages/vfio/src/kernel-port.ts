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
 * The system calls that this package makes. All of them go through this interface, so that the same code runs on the
 * kernel and on the model of it in `@godwit/vfio/testing`.
 *
 * Results are those of the kernel: the return value of the call, or minus errno.
 */
export interface KernelPort {
  /** Opens a device node, close-on-exec. Throws a `SyscallError` that says what to do. */
  open(path: string): number;
  /** close(2). */
  close(fd: number): void;
  /**
   * close(2) on a pool thread: the last close of a file unpins memory, or resets a device. Without this method `close`
   * is called.
   */
  closeAsync?(fd: number): Promise<void>;
  /** ioctl(2), for calls that are done in microseconds. */
  ioctl(fd: number, request: number, argument?: IoctlArgument): number;
  /**
   * ioctl(2) on a pool thread, for calls that pin memory, change a device's state, or wait for a lock that such a call
   * holds.
   */
  ioctlAsync(fd: number, request: number, argument?: IoctlArgument): Promise<number>;
  /** read(2) on a pool thread. The descriptor must stay open, and the buffer untouched, until the promise resolves. */
  read(fd: number, buffer: Uint8Array): Promise<number>;
  /** write(2) on a pool thread, with the same rules. */
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
