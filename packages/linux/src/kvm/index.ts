/**
 * `@godwit/linux/kvm`: VMs and vCPUs on /dev/kvm, alone: for threads, which must start quickly.
 *
 * @module @godwit/linux/kvm
 */
export { getThreadId, installWakeSignal, signalThread, WAKE_SIGNAL } from '../libc/thread-signal.js';
export { CPU_MODELS, type CpuModel, cpuidOfModel } from './cpu-model.js';
export { Cpuid, type CpuidEntry } from './cpuid.js';
export { type DirtyRings, enableDirtyRings, mostDirtyRingEntries } from './dirty-ring.js';
export { DirtyRingCalls } from './dirty-ring-calls.js';
export { Kvm, probeKvm } from './kvm.js';
export { KvmCapability, KvmExit, KvmValue, kvmExitName } from './kvm-constants.js';
export { KvmRun } from './kvm-run.js';
export { KvmVcpu, runVcpu } from './kvm-vcpu.js';
export { type GuestNotification, InterruptChip, type KvmMemoryRegion, KvmVm, setIrqLine } from './kvm-vm.js';
export { msrName } from './msr-names.js';
export { guestMsrs, Msr, type MsrValue, readMsrs, writeMsrs } from './msrs.js';
export { NestedState } from './nested-state.js';
export { SliceTimer } from './slice-timer.js';
export {
  type ControlRegister,
  type GeneralRegister,
  GeneralRegisters,
  type SegmentRegister,
  SpecialRegisters,
} from './vcpu-registers.js';
export { VcpuState, type VcpuStatePart } from './vcpu-state-part.js';
export { VcpuStatistics } from './vcpu-statistics.js';
