import { defines, type KernelLayout, struct } from './kernel-layout.js';

const HEADER = 'linux/kvm.h';

/** The dirty log's part of linux/kvm.h. */
export const KvmDirtyLog = {
  KVM_CHECK_EXTENSION: 0xae03,
  KVM_GET_DIRTY_LOG: 0x4010ae42,
  KVM_CLEAR_DIRTY_LOG: 0xc018aec0,
  KVM_ENABLE_CAP: 0x4068aea3,
  KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: 168,
  KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE: 1,
  KVM_MEM_LOG_DIRTY_PAGES: 1,
} as const;

export const KVM_DIRTY_LOG = struct(HEADER, 'kvm_dirty_log', 16, { slot: [0, 4], dirty_bitmap: [8, 8] });

export const KVM_CLEAR_DIRTY_LOG = struct(HEADER, 'kvm_clear_dirty_log', 24, {
  slot: [0, 4],
  num_pages: [4, 4],
  first_page: [8, 8],
  dirty_bitmap: [16, 8],
});

export const KVM_ENABLE_CAP = struct(HEADER, 'kvm_enable_cap', 104, {
  cap: [0, 4],
  flags: [4, 4],
  'args[0]': [8, 8],
});

export const kvmDirtyLogLayouts: readonly KernelLayout[] = [
  KVM_DIRTY_LOG,
  KVM_CLEAR_DIRTY_LOG,
  KVM_ENABLE_CAP,
  ...defines(HEADER, { KVM_GET_DIRTY_LOG: KvmDirtyLog.KVM_GET_DIRTY_LOG }, { argument: 'kvm_dirty_log' }),
  ...defines(HEADER, { KVM_CLEAR_DIRTY_LOG: KvmDirtyLog.KVM_CLEAR_DIRTY_LOG }, { argument: 'kvm_clear_dirty_log' }),
  ...defines(HEADER, { KVM_ENABLE_CAP: KvmDirtyLog.KVM_ENABLE_CAP }, { argument: 'kvm_enable_cap' }),
  ...defines(HEADER, {
    KVM_CHECK_EXTENSION: KvmDirtyLog.KVM_CHECK_EXTENSION,
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: KvmDirtyLog.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE: KvmDirtyLog.KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
    KVM_MEM_LOG_DIRTY_PAGES: KvmDirtyLog.KVM_MEM_LOG_DIRTY_PAGES,
  }),
];
