import { getSystemErrorMap } from 'node:util';
import { type ErrorCode, GodwitError } from '@godwit/core/errors';
import { Errno, errnoName } from './errno.js';

/**
 * A system call failed. `code` says what kind of failure it is:
 *
 * - `GODWIT_PERMISSION` for EACCES and EPERM,
 * - `GODWIT_OUT_OF_MEMORY` for ENOMEM,
 * - `GODWIT_UNSUPPORTED` for ENOSYS, and for a device node that does not exist or has no driver,
 * - `GODWIT_SYSCALL` for everything else.
 *
 * @example
 * try {
 *   openFile('/dev/kvm');
 * } catch (error) {
 *   if (error instanceof SyscallError && error.errnoName === 'EACCES') askForTheGroupKvm();
 * }
 */
export class SyscallError extends GodwitError {
  override readonly name: string = 'SyscallError';
  /** `mmap`, `KVM_CREATE_VM`, ...: for an ioctl its own name. */
  readonly syscall: string;
  /** The kernel's number, positive. */
  readonly errno: number;
  /** `ENOMEM`. */
  readonly errnoName: string;

  constructor(
    syscall: string,
    errno: number,
    asked: string,
    options: { code?: ErrorCode; advice?: string; cause?: unknown } = {},
  ) {
    const name = errnoName(errno);
    const words = getSystemErrorMap().get(-errno)?.[1];
    const reason = words === undefined ? name : `${name} (${words})`;
    const advice = options.advice === undefined ? '' : `; ${options.advice}`;
    super(
      options.code ?? codeOf(errno),
      `${syscall}${asked === '' ? '' : ` ${asked}`} failed: ${reason}${advice}`,
      options.cause === undefined ? {} : { cause: options.cause },
    );
    this.syscall = syscall;
    this.errno = errno;
    this.errnoName = name;
  }
}

function codeOf(errno: number): ErrorCode {
  switch (errno) {
    case Errno.EPERM:
    case Errno.EACCES:
      return 'GODWIT_PERMISSION';
    case Errno.ENOMEM:
      return 'GODWIT_OUT_OF_MEMORY';
    case Errno.ENOSYS:
      return 'GODWIT_UNSUPPORTED';
    default:
      return 'GODWIT_SYSCALL';
  }
}
