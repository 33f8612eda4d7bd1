import { GodwitError } from '@godwit/core/errors';
import { StructBuffer } from '../layouts/struct-buffer.js';
import { UFFDIO_API, UFFDIO_RANGE, UFFDIO_REGISTER, Uffd, UffdRequest } from '../layouts/userfaultfd.js';
import {
  closeFd,
  Errno,
  ioctl,
  openDevice,
  SyscallError,
  tryIoctl,
  UFFD_USER_MODE_ONLY,
  userfaultfd,
} from '../libc/index.js';

/**
 * One userfaultfd: asks the kernel to report, or to note, page faults in ranges of this process's memory. A range
 * belongs to at most one userfaultfd at a time.
 */
export class Userfaultfd {
  readonly fd: number;
  /**
   * True when the process may not handle faults that the kernel takes on its behalf (KVM's included). No matter for
   * asynchronous write protection, which handles nothing; fatal for post-copy.
   */
  readonly userModeOnly: boolean;
  #closed = false;

  private constructor(fd: number, userModeOnly: boolean) {
    this.fd = fd;
    this.userModeOnly = userModeOnly;
  }

  /**
   * Opens one through /dev/userfaultfd, else by the system call, else (unprivileged) for user mode only, and asks for
   * `features` (bits of `UFFD_FEATURE_...`).
   *
   * @throws SyscallError GODWIT_UNSUPPORTED when the kernel lacks userfaultfd or one of the features,
   * GODWIT_PERMISSION when it is forbidden (a seccomp filter)
   */
  static open(features: number): Userfaultfd {
    const { fd, userModeOnly } = openDescriptor();
    const api = new StructBuffer(UFFDIO_API).set('api', Uffd.UFFD_API).set('features', features);
    const result = tryIoctl(fd, UffdRequest.UFFDIO_API, api.bytes);
    if (result >= 0) return new Userfaultfd(fd, userModeOnly);
    closeFd(fd);
    throw new SyscallError('UFFDIO_API', -result, `with features 0x${features.toString(16)}`, {
      ...(result === -Errno.EINVAL ? { code: 'GODWIT_UNSUPPORTED' as const } : {}),
      advice: 'a newer kernel may have the feature (asynchronous write protection: Linux 6.7)',
    });
  }

  /** @param mode bits of `UFFDIO_REGISTER_MODE_...` */
  register(address: bigint, byteLength: number, mode: number): void {
    this.#requireOpen();
    const argument = new StructBuffer(UFFDIO_REGISTER)
      .set('range.start', address)
      .set('range.len', byteLength)
      .set('mode', mode);
    ioctl(this.fd, UffdRequest.UFFDIO_REGISTER, argument.bytes, 'UFFDIO_REGISTER');
  }

  /** Takes a range out; its write protection goes with it. */
  unregister(address: bigint, byteLength: number): void {
    this.#requireOpen();
    const argument = new StructBuffer(UFFDIO_RANGE).set('start', address).set('len', byteLength);
    ioctl(this.fd, UffdRequest.UFFDIO_UNREGISTER, argument.bytes, 'UFFDIO_UNREGISTER');
  }

  /** Closing unregisters whatever is still registered. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeFd(this.fd);
  }

  #requireOpen(): void {
    if (this.#closed) throw new GodwitError('GODWIT_INVALID_STATE', 'the userfaultfd is closed');
  }
}

function openDescriptor(): { fd: number; userModeOnly: boolean } {
  const attempts: readonly (() => { fd: number; userModeOnly: boolean })[] = [
    () => ({ fd: openThroughDevice(), userModeOnly: false }),
    () => ({ fd: userfaultfd(), userModeOnly: false }),
    () => ({ fd: userfaultfd(UFFD_USER_MODE_ONLY), userModeOnly: true }),
  ];
  let last: unknown;
  for (const attempt of attempts) {
    try {
      return attempt();
    } catch (error) {
      last = error;
    }
  }
  throw last;
}

function openThroughDevice(): number {
  const device = openDevice('/dev/userfaultfd');
  try {
    // O_CLOEXEC | O_NONBLOCK (asm-generic/fcntl.h), as for the system call.
    return ioctl(device, Uffd.USERFAULTFD_IOC_NEW, 0o2004000, 'USERFAULTFD_IOC_NEW');
  } finally {
    closeFd(device);
  }
}
