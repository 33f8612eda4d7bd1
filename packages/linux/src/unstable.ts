/**
 * `@godwit/linux/unstable`: the kernel's structs and numbers, and the system calls, as the packages of Godwit use them. **Everything here
 * may change in any version.** Threads import only the system calls, from `@godwit/linux/unstable/libc`, which loads fewer modules.
 */
export { KvmSystemRequest, KvmVcpuRequest, KvmVmRequest } from './kvm/kvm-constants.js';
export { kvmLayouts } from './kvm/kvm-layouts.js';
export * from './layouts/index.js';
export * from './libc/index.js';
export { checkBlockLayout } from './memory/block-layout.js';
export { checkFitsHost } from './memory/host-memory.js';
export { pinnedBytes } from './memory/pinned-memory.js';
export { checkTap, openTap } from './net/tap.js';
export { RingReaper, type RingReaperParts } from './trackers/ring/ring-reaper.js';
export { VcpuRing } from './trackers/ring/vcpu-ring.js';
export { trackerFailed } from './trackers/tracker-error.js';
