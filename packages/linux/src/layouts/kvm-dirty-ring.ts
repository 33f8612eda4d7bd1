import { defines, type KernelLayout, struct } from './kernel-layout.js';

const HEADER = 'linux/kvm.h';

/** The dirty ring's part of linux/kvm.h; the page offset is from asm/kvm.h, and the same on x86-64 and arm64. */
export const KvmDirtyRing = {
  KVM_RESET_DIRTY_RINGS: 0xaec7,
  KVM_CAP_DIRTY_LOG_RING: 192,
  KVM_CAP_DIRTY_LOG_RING_ACQ_REL: 223,
  KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP: 225,
  KVM_DIRTY_GFN_F_DIRTY: 1 << 0,
  KVM_DIRTY_GFN_F_RESET: 1 << 1,
  KVM_DIRTY_LOG_PAGE_OFFSET: 64,
  KVM_EXIT_DIRTY_RING_FULL: 31,
} as const;

/** An entry of a ring: a page of a slot. */
export const KVM_DIRTY_GFN = struct(HEADER, 'kvm_dirty_gfn', 16, { flags: [0, 4], slot: [4, 4], offset: [8, 8] });

export const kvmDirtyRingLayouts: readonly KernelLayout[] = [KVM_DIRTY_GFN, ...defines(HEADER, KvmDirtyRing)];
