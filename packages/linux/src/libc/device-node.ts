import { Errno } from './errno.js';
import { OpenFlags, tryOpenFile } from './file-descriptor.js';
import { SyscallError } from './syscall-error.js';

/** What to do about a device node that does not exist, or that this process may not open. */
interface Advice {
  readonly missing: string;
  readonly denied: string;
}

const ADVICE: readonly (readonly [prefix: string, advice: Advice])[] = [
  [
    '/dev/kvm',
    {
      missing:
        'load the module (`modprobe kvm_intel` or `kvm_amd`) and enable virtualization in the firmware or hypervisor',
      denied: 'add your user to group kvm (`sudo usermod -aG kvm $USER`, then log in again)',
    },
  ],
  [
    '/dev/userfaultfd',
    {
      missing: 'a kernel from 6.1 on with CONFIG_USERFAULTFD has it',
      denied: 'give your user access to /dev/userfaultfd, or set the sysctl vm.unprivileged_userfaultfd=1',
    },
  ],
  [
    '/dev/net/tun',
    {
      missing: 'load the module (`modprobe tun`)',
      denied: 'give your user access to /dev/net/tun',
    },
  ],
  [
    '/dev/vfio',
    {
      missing: 'load vfio-pci, turn the IOMMU on and bind the device to vfio-pci',
      denied: 'give your user access to the group node in /dev/vfio (an udev rule, or chown)',
    },
  ],
  [
    '/dev/iommu',
    { missing: 'a kernel from 6.2 on with CONFIG_IOMMUFD has it', denied: 'give your user access to /dev/iommu' },
  ],
];

/**
 * Opens a device node, close-on-exec.
 *
 * @throws SyscallError GODWIT_UNSUPPORTED when the node or its driver is missing, GODWIT_PERMISSION when access is
 * denied; the message says what to do
 */
export function openDevice(path: string, flags: number = OpenFlags.O_RDWR): number {
  const fd = tryOpenFile(path, flags);
  if (fd >= 0) return fd;
  const errno = -fd;
  const advice = ADVICE.find(([prefix]) => path.startsWith(prefix))?.[1];
  if (errno === Errno.ENOENT || errno === Errno.ENODEV || errno === Errno.ENXIO) {
    throw new SyscallError('open', errno, path, { code: 'GODWIT_UNSUPPORTED', ...adviceOption(advice?.missing) });
  }
  if (errno === Errno.EACCES || errno === Errno.EPERM) {
    throw new SyscallError('open', errno, path, adviceOption(advice?.denied));
  }
  throw new SyscallError('open', errno, path);
}

function adviceOption(advice: string | undefined): { advice?: string } {
  return advice === undefined ? {} : { advice };
}
