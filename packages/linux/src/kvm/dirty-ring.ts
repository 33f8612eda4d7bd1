import { GodwitError } from '@godwit/core/errors';
import { KVM_ENABLE_CAP, KvmDirtyLog } from '../layouts/kvm-dirty-log.js';
import { KVM_DIRTY_GFN, KvmDirtyRing as Ring } from '../layouts/kvm-dirty-ring.js';
import { StructBuffer } from '../layouts/struct-buffer.js';
import { Errno, HOST_PAGE_SIZE, ioctl, MapFlags, mmap, tryIoctl } from '../libc/index.js';

/** The dirty rings of a VM that has them: one for each vCPU, all of the same size. */
export interface DirtyRings {
  /** Entries of each ring, a power of two. */
  readonly entries: number;
  /**
   * Whether KVM also keeps a bitmap, for pages that are written while no vCPU runs (the interrupt tables of arm64):
   * KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP.
   */
  readonly withBitmap: boolean;
}

/**
 * The fewest entries, although KVM accepts smaller rings: a KVM that emulates instructions checks a ring only after hundreds of them, and
 * logs every store of a `rep stos`. One instruction used 1,408 entries beyond the reserve (PVM, Linux 6.18), so that a small ring would be
 * overrun again and again.
 */
const LEAST_ENTRIES = 4096;

/** Bytes of a ring that the vCPU's descriptor maps. */
export function dirtyRingBytes(entries: number): number {
  return entries * KVM_DIRTY_GFN.size;
}

/**
 * The entries that a ring of this VM may have at most; 0 when its KVM has no dirty ring with acquire and release (Linux 6.1).
 *
 * @example
 * if (mostDirtyRingEntries(vm.fd) > 0) vm.enableDirtyRings();
 */
export function mostDirtyRingEntries(vmFd: number): number {
  return (
    Math.max(0, tryIoctl(vmFd, KvmDirtyLog.KVM_CHECK_EXTENSION, Ring.KVM_CAP_DIRTY_LOG_RING_ACQ_REL)) /
    KVM_DIRTY_GFN.size
  );
}

/**
 * Gives a VM dirty rings, for `KvmDirtyRingTracker`, for as long as it lives; it has no dirty log then (KVM_GET_DIRTY_LOG fails with
 * ENXIO), unless there is a bitmap beside the rings. Call it before the first vCPU is made, and before the first memory slot.
 *
 * A large ring takes 16 bytes an entry, and lets a vCPU run on when the rings are not reaped for a while: a vCPU leaves the guest when its
 * ring is full except for some entries that KVM reserves (64, and 512 more where the processor logs writes).
 *
 * @param entries of each ring: a power of two, from 4,096 to `mostDirtyRingEntries`. Default: the most
 * @throws GodwitError GODWIT_UNSUPPORTED when this KVM has no such rings, GODWIT_INVALID_ARGUMENT for another number of entries,
 * GODWIT_INVALID_STATE when KVM refuses, since there are vCPUs already
 * @example
 * const rings = enableDirtyRings(vm.fd, 65_536);
 */
export function enableDirtyRings(vmFd: number, entries?: number): DirtyRings {
  const most = mostDirtyRingEntries(vmFd);
  if (most === 0) {
    throw new GodwitError(
      'GODWIT_UNSUPPORTED',
      "this kernel's KVM has no KVM_CAP_DIRTY_LOG_RING_ACQ_REL (Linux 6.1); use KvmDirtyLogTracker",
    );
  }
  const count = entries ?? most;
  if (!Number.isInteger(Math.log2(count)) || count < LEAST_ENTRIES || count > most) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `a dirty ring has a power of two of entries, from ${LEAST_ENTRIES} to ${most} on this host, not ${count}`,
    );
  }
  try {
    enable(vmFd, Ring.KVM_CAP_DIRTY_LOG_RING_ACQ_REL, dirtyRingBytes(count));
  } catch (error) {
    if ((error as { readonly errno?: number }).errno !== Errno.EINVAL) throw error;
    throw new GodwitError(
      'GODWIT_INVALID_STATE',
      `KVM refuses dirty rings of ${count} entries: they are enabled once, before the first vCPU is made`,
      { cause: error },
    );
  }
  const withBitmap = tryIoctl(vmFd, KvmDirtyLog.KVM_CHECK_EXTENSION, Ring.KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP) > 0;
  if (withBitmap) enable(vmFd, Ring.KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, 0);
  return { entries: count, withBitmap };
}

/** Maps the ring of a vCPU. The VM must have rings of this size: touching the mapping would otherwise end the process. */
export function mapDirtyRing(vcpuFd: number, entries: number): bigint {
  return mmap({
    byteLength: dirtyRingBytes(entries),
    flags: MapFlags.MAP_SHARED,
    fd: vcpuFd,
    offset: Ring.KVM_DIRTY_LOG_PAGE_OFFSET * HOST_PAGE_SIZE,
  });
}

function enable(vmFd: number, cap: number, argument: number): void {
  const request = new StructBuffer(KVM_ENABLE_CAP).set('cap', cap).set('args[0]', argument);
  ioctl(vmFd, KvmDirtyLog.KVM_ENABLE_CAP, request.bytes, 'KVM_ENABLE_CAP');
}
