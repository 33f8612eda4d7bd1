/**
 * `@godwit/linux`: guest memory, the trackers of its writes, and what this host can do. KVM is in `@godwit/linux/kvm`; the kernel's
 * structs, numbers and system calls are in `@godwit/linux/unstable`.
 *
 * @module @godwit/linux
 */
export { type HostSupport, hostSupport, type Support } from './host-support.js';
export { type DirtyRings, enableDirtyRings, mostDirtyRingEntries } from './kvm/dirty-ring.js';
export { DirtyRingCalls } from './kvm/dirty-ring-calls.js';
export { Kvm, probeKvm } from './kvm/kvm.js';
export { KvmVcpu, runVcpu } from './kvm/kvm-vcpu.js';
export { InterruptChip, type KvmMemoryRegion, KvmVm } from './kvm/kvm-vm.js';
export { SliceTimer } from './kvm/slice-timer.js';
export { SyscallError } from './libc/syscall-error.js';
export { getThreadId, installWakeSignal, signalThread, WAKE_SIGNAL } from './libc/thread-signal.js';
export type { BlockPlacement } from './memory/block-layout.js';
export { type HostMemory, hostMemory } from './memory/host-memory.js';
export { type HugePages, type MemoryBacking, transparentHugePagesObstacle } from './memory/huge-pages.js';
export {
  attachGuestMemory,
  type BlockAttachment,
  createGuestMemory,
  type GuestMemoryAttachment,
  type GuestMemoryOptions,
  MappedGuestMemory,
} from './memory/mapped-guest-memory.js';
export { MappedRamBlock } from './memory/mapped-ram-block.js';
export { pinHostMemory } from './memory/pinned-memory.js';
export * from './raw-names.js';
export * from './trackers/index.js';
export * from './userfaultfd/index.js';
