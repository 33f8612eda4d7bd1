export { type DefineLayout, defines, type KernelLayout, type StructLayout, struct } from './kernel-layout.js';
export {
  KVM_CLEAR_DIRTY_LOG,
  KVM_DIRTY_LOG,
  KVM_ENABLE_CAP,
  KvmDirtyLog,
  kvmDirtyLogLayouts,
} from './kvm-dirty-log.js';
export { KVM_DIRTY_GFN, KvmDirtyRing, kvmDirtyRingLayouts } from './kvm-dirty-ring.js';
export { libcLayouts } from './libc-numbers.js';
export { PAGE_REGION, PagemapScan, PM_SCAN_ARG, pagemapScanLayouts } from './pagemap-scan.js';
export { StructBuffer } from './struct-buffer.js';
export { IFREQ, Tun, tunLayouts } from './tun.js';
export {
  UFFD_MSG,
  UFFDIO_API,
  UFFDIO_CONTINUE,
  UFFDIO_COPY,
  UFFDIO_POISON,
  UFFDIO_RANGE,
  UFFDIO_REGISTER,
  UFFDIO_RWPROTECT,
  UFFDIO_WRITEPROTECT,
  UFFDIO_ZEROPAGE,
  Uffd,
  UffdRangeOperation,
  UffdRequest,
  userfaultfdLayouts,
} from './userfaultfd.js';
