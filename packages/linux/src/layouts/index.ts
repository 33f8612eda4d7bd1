export { type DefineLayout, defines, type KernelLayout, type StructLayout, struct } from './kernel-layout.js';
export {
  KVM_CLEAR_DIRTY_LOG,
  KVM_DIRTY_LOG,
  KVM_ENABLE_CAP,
  KvmDirtyLog,
  kvmDirtyLogLayouts,
} from './kvm-dirty-log.js';
export { libcLayouts } from './libc-numbers.js';
export { PAGE_REGION, PagemapScan, PM_SCAN_ARG, pagemapScanLayouts } from './pagemap-scan.js';
export { StructBuffer } from './struct-buffer.js';
export { UFFDIO_API, UFFDIO_RANGE, UFFDIO_REGISTER, Uffd, UffdRequest, userfaultfdLayouts } from './userfaultfd.js';
