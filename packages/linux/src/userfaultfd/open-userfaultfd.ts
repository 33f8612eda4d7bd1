import { StructBuffer } from '../layouts/struct-buffer.js';
import { UFFDIO_API, Uffd, UffdRequest } from '../layouts/userfaultfd.js';
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

/** A new userfaultfd, with its features agreed on. */
export interface OpenedUserfaultfd {
  readonly fd: number;
  readonly userModeOnly: boolean;
  /** Bits of `UFFD_FEATURE_...` that are on. */
  readonly features: number;
}

/**
 * Opens a userfaultfd through /dev/userfaultfd, else by the system call, else (unprivileged) for user mode only. `wanted` features are
 * turned on where the kernel has them.
 *
 * @throws SyscallError GODWIT_UNSUPPORTED when the kernel lacks userfaultfd or one of the `required` features
 */
export function openUserfaultfd(required: number, wanted = 0): OpenedUserfaultfd {
  // A userfaultfd can be asked only once, so the kernel's features are asked of another one.
  const optional = (wanted & ~required) === 0 ? 0 : wanted & availableFeatures();
  const opened = openDescriptor();
  const features = required | optional;
  try {
    shakeHands(opened.fd, features);
    return { ...opened, features };
  } catch (error) {
    closeFd(opened.fd);
    throw error;
  }
}

/** The result of `availableFeatures`, which never changes. */
let available: number | undefined;

/** Bits of `UFFD_FEATURE_...` that this kernel has. Throws like `openUserfaultfd`. */
export function availableFeatures(): number {
  if (available !== undefined) return available;
  const { fd } = openDescriptor();
  try {
    available = shakeHands(fd, 0);
    return available;
  } finally {
    closeFd(fd);
  }
}

/** UFFDIO_API: turns features on, and returns all that the kernel has. */
function shakeHands(fd: number, features: number): number {
  const api = new StructBuffer(UFFDIO_API).set('api', Uffd.UFFD_API).set('features', features);
  const result = tryIoctl(fd, UffdRequest.UFFDIO_API, api.bytes);
  if (result >= 0) return api.get('features');
  const lacking = features === 0 ? 0 : features & ~availableFeatures();
  throw new SyscallError('UFFDIO_API', -result, `with features 0x${features.toString(16)}`, {
    ...(result === -Errno.EINVAL ? { code: 'GODWIT_UNSUPPORTED' as const } : {}),
    advice: `a newer kernel may have what this one lacks (${namesOf(lacking)}); asynchronous write protection: Linux 6.7, protection against any access (RWP): Linux 7.3`,
  });
}

function namesOf(features: number): string {
  const names = Object.entries(Uffd).filter(
    ([name, bit]) => name.startsWith('UFFD_FEATURE_') && (features & bit) !== 0,
  );
  return names.map(([name]) => name.slice('UFFD_FEATURE_'.length)).join(', ') || 'nothing that it has a name for';
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
