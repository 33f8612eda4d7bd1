import { GodwitError } from '@godwit/core/errors';
import { Kvm, probeKvm } from './kvm/kvm.js';
import { KvmDirtyLog } from './layouts/kvm-dirty-log.js';
import { Uffd } from './layouts/userfaultfd.js';
import { type MemoryBacking, transparentHugePagesObstacle } from './memory/huge-pages.js';
import { probePagemapScan } from './memory/pagemap-scan-support.js';
import { Userfaultfd } from './userfaultfd/userfaultfd.js';

/** Whether this process can use something, and if not, why and what to do. */
export type Support = { readonly usable: true } | { readonly usable: false; readonly reason: string };

/** The features of this host that this process can use for migration. */
export interface HostSupport {
  /** `/dev/kvm` opens, has what `Kvm` needs, and gives a VM. */
  readonly kvm: Support;
  /** Deferred re-arming of KVM's dirty log (Linux 5.0). */
  readonly kvmManualDirtyLog: Support;
  /** Dirty rings (KVM_CAP_DIRTY_LOG_RING_ACQ_REL, Linux 6.1): `KvmDirtyRingTracker` works. */
  readonly kvmDirtyRing: Support;
  readonly userfaultfd: Support;
  /** userfaultfd may handle faults taken inside the kernel, KVM's included: post-copy needs this. */
  readonly userfaultfdKernelFaults: Support;
  /** UFFD_FEATURE_WP_ASYNC (Linux 6.7). With `pagemapScan`: `PagemapTracker` works. */
  readonly asyncWriteProtect: Support;
  /** The PAGEMAP_SCAN request (Linux 6.7). */
  readonly pagemapScan: Support;
  /** UFFD_FEATURE_RWP_ASYNC (Linux 7.3). With `pagemapScan`: `AccessTracker` works. */
  readonly accessProtect: Support;
  /** `hugePages: 'transparent'`. */
  readonly transparentHugePages: Support;
  /** Whether guest memory with `backing: 'anonymous'` gets transparent huge pages. */
  readonly anonymousHugePages: Support;
}

/**
 * Finds the features by trying them; takes well under a millisecond and leaves nothing open.
 *
 * @example
 * const { pagemapScan } = hostSupport();
 * if (!pagemapScan.usable) throw new Error(pagemapScan.reason);
 */
export function hostSupport(): HostSupport {
  return {
    kvm: probeKvm(),
    kvmManualDirtyLog: attempt(probeManualDirtyLog),
    kvmDirtyRing: attempt(probeDirtyRing),
    userfaultfd: attempt(() => Userfaultfd.open(0).close()),
    userfaultfdKernelFaults: attempt(probeKernelFaults),
    asyncWriteProtect: attempt(() => Userfaultfd.open(Uffd.UFFD_FEATURE_WP_ASYNC).close()),
    pagemapScan: attempt(probePagemapScan),
    accessProtect: attempt(() => Userfaultfd.open(Uffd.UFFD_FEATURE_RWP | Uffd.UFFD_FEATURE_RWP_ASYNC).close()),
    transparentHugePages: attempt(() => probeHugePages('file')),
    anonymousHugePages: attempt(() => {
      probeHugePages('anonymous');
      probePagemapScan();
    }),
  };
}

function attempt(probe: () => void): Support {
  try {
    probe();
    return { usable: true };
  } catch (error) {
    return { usable: false, reason: error instanceof Error ? error.message : String(error) };
  }
}

function probeManualDirtyLog(): void {
  const kvm = Kvm.open();
  try {
    if (kvm.checkExtension(KvmDirtyLog.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) > 0) return;
  } finally {
    kvm.close();
  }
  throw unsupported('KVM has no KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2; Linux 5.0 has');
}

function probeDirtyRing(): void {
  const kvm = Kvm.open();
  try {
    const vm = kvm.createVm();
    try {
      vm.enableDirtyRings();
    } finally {
      vm.close();
    }
  } finally {
    kvm.close();
  }
}

function probeKernelFaults(): void {
  const uffd = Userfaultfd.open(0);
  uffd.close();
  if (!uffd.userModeOnly) return;
  throw unsupported(
    'only for user mode; give your user access to /dev/userfaultfd or set vm.unprivileged_userfaultfd=1',
  );
}

function probeHugePages(backing: MemoryBacking): void {
  const obstacle = transparentHugePagesObstacle(backing);
  if (obstacle !== null) throw unsupported(obstacle);
}

function unsupported(message: string): GodwitError {
  return new GodwitError('GODWIT_UNSUPPORTED', message);
}
