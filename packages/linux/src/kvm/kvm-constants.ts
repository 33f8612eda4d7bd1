import { defines, type KernelLayout } from '../layouts/index.js';

/*
 * Everything here is from linux/kvm.h (which includes asm/kvm.h) on x86-64. Documentation/virt/kvm/api.rst says what
 * each call does.
 */

/** Requests of /dev/kvm itself. */
export const KvmSystemRequest = {
  KVM_GET_API_VERSION: 0xae00,
  KVM_CREATE_VM: 0xae01,
  KVM_GET_MSR_INDEX_LIST: 0xc004_ae02,
  KVM_CHECK_EXTENSION: 0xae03,
  KVM_GET_VCPU_MMAP_SIZE: 0xae04,
  KVM_GET_SUPPORTED_CPUID: 0xc008_ae05,
  KVM_GET_MSR_FEATURE_INDEX_LIST: 0xc004_ae0a,
} as const;

/** Requests of a VM's descriptor. KVM_CHECK_EXTENSION works on it too, and then answers for that VM. */
export const KvmVmRequest = {
  KVM_CREATE_VCPU: 0xae41,
  KVM_SET_USER_MEMORY_REGION: 0x4020_ae46,
  KVM_SET_TSS_ADDR: 0xae47,
  KVM_SET_IDENTITY_MAP_ADDR: 0x4008_ae48,
  KVM_CREATE_IRQCHIP: 0xae60,
  KVM_IRQ_LINE: 0x4008_ae61,
  KVM_GET_IRQCHIP: 0xc208_ae62,
  KVM_SET_IRQCHIP: 0x8208_ae63,
  KVM_CREATE_PIT2: 0x4040_ae77,
  KVM_GET_PIT2: 0x8070_ae9f,
  KVM_SET_PIT2: 0x4070_aea0,
  KVM_SET_CLOCK: 0x4030_ae7b,
  KVM_GET_CLOCK: 0x8030_ae7c,
  KVM_IOEVENTFD: 0x4040_ae79,
} as const;

/** Requests of a vCPU's descriptor. */
export const KvmVcpuRequest = {
  KVM_RUN: 0xae80,
  KVM_GET_REGS: 0x8090_ae81,
  KVM_SET_REGS: 0x4090_ae82,
  KVM_GET_SREGS: 0x8138_ae83,
  KVM_SET_SREGS: 0x4138_ae84,
  KVM_GET_SREGS2: 0x8140_aecc,
  KVM_SET_SREGS2: 0x4140_aecd,
  KVM_GET_FPU: 0x81a0_ae8c,
  KVM_SET_FPU: 0x41a0_ae8d,
  KVM_GET_MSRS: 0xc008_ae88,
  KVM_SET_MSRS: 0x4008_ae89,
  KVM_GET_LAPIC: 0x8400_ae8e,
  KVM_SET_LAPIC: 0x4400_ae8f,
  KVM_SET_CPUID2: 0x4008_ae90,
  KVM_GET_CPUID2: 0xc008_ae91,
  KVM_GET_MP_STATE: 0x8004_ae98,
  KVM_SET_MP_STATE: 0x4004_ae99,
  KVM_GET_VCPU_EVENTS: 0x8040_ae9f,
  KVM_SET_VCPU_EVENTS: 0x4040_aea0,
  KVM_GET_DEBUGREGS: 0x8080_aea1,
  KVM_SET_DEBUGREGS: 0x4080_aea2,
  KVM_SET_TSC_KHZ: 0xaea2,
  KVM_GET_TSC_KHZ: 0xaea3,
  KVM_GET_XSAVE: 0x9000_aea4,
  KVM_SET_XSAVE: 0x5000_aea5,
  KVM_GET_XCRS: 0x8188_aea6,
  KVM_SET_XCRS: 0x4188_aea7,
  KVM_GET_XSAVE2: 0x9000_aecf,
  KVM_GET_STATS_FD: 0xaece,
  KVM_GET_NESTED_STATE: 0xc080_aebe,
  KVM_SET_NESTED_STATE: 0x4080_aebf,
  KVM_SET_DEVICE_ATTR: 0x4018_aee1,
  KVM_GET_DEVICE_ATTR: 0x4018_aee2,
  KVM_HAS_DEVICE_ATTR: 0x4018_aee3,
} as const;

/** The arguments of KVM_CHECK_EXTENSION. */
export const KvmCapability = {
  KVM_CAP_IRQCHIP: 0,
  KVM_CAP_USER_MEMORY: 3,
  KVM_CAP_SET_TSS_ADDR: 4,
  KVM_CAP_EXT_CPUID: 7,
  KVM_CAP_NR_MEMSLOTS: 10,
  KVM_CAP_MP_STATE: 14,
  KVM_CAP_PIT2: 33,
  KVM_CAP_PIT_STATE2: 35,
  KVM_CAP_IOEVENTFD: 36,
  KVM_CAP_SET_IDENTITY_MAP_ADDR: 37,
  KVM_CAP_ADJUST_CLOCK: 39,
  KVM_CAP_VCPU_EVENTS: 41,
  KVM_CAP_DEBUGREGS: 50,
  KVM_CAP_XSAVE: 55,
  KVM_CAP_XCRS: 56,
  KVM_CAP_TSC_CONTROL: 60,
  KVM_CAP_GET_TSC_KHZ: 61,
  KVM_CAP_MAX_VCPUS: 66,
  KVM_CAP_TSC_DEADLINE_TIMER: 72,
  KVM_CAP_IMMEDIATE_EXIT: 136,
  KVM_CAP_GET_MSR_FEATURES: 153,
  KVM_CAP_NESTED_STATE: 157,
  KVM_CAP_EXCEPTION_PAYLOAD: 164,
  KVM_CAP_SREGS2: 200,
  KVM_CAP_BINARY_STATS_FD: 203,
  KVM_CAP_XSAVE2: 208,
  KVM_CAP_SYS_ATTRIBUTES: 209,
  KVM_CAP_X86_TRIPLE_FAULT_EVENT: 218,
} as const;

/** The reasons for which KVM_RUN returns. */
export const KvmExit = {
  KVM_EXIT_UNKNOWN: 0,
  KVM_EXIT_IO: 2,
  KVM_EXIT_HLT: 5,
  KVM_EXIT_MMIO: 6,
  KVM_EXIT_IRQ_WINDOW_OPEN: 7,
  KVM_EXIT_SHUTDOWN: 8,
  KVM_EXIT_FAIL_ENTRY: 9,
  KVM_EXIT_INTR: 10,
  KVM_EXIT_INTERNAL_ERROR: 17,
  KVM_EXIT_SYSTEM_EVENT: 24,
  KVM_EXIT_DIRTY_RING_FULL: 31,
} as const;

/** Single values. */
export const KvmValue = {
  KVM_API_VERSION: 12,
  KVM_MEM_LOG_DIRTY_PAGES: 1,
  KVM_EXIT_IO_IN: 0,
  KVM_EXIT_IO_OUT: 1,
  KVM_IRQCHIP_PIC_MASTER: 0,
  KVM_IRQCHIP_PIC_SLAVE: 1,
  KVM_IRQCHIP_IOAPIC: 2,
  KVM_PIT_SPEAKER_DUMMY: 1,
  KVM_MP_STATE_RUNNABLE: 0,
  KVM_CPUID_FLAG_SIGNIFCANT_INDEX: 1,
  KVM_CLOCK_TSC_STABLE: 2,
  KVM_CLOCK_REALTIME: 4,
  KVM_CLOCK_HOST_TSC: 8,
  KVM_IOEVENTFD_FLAG_DATAMATCH: 1,
  KVM_VCPU_TSC_CTRL: 0,
  KVM_VCPU_TSC_OFFSET: 0,
  KVM_X86_XCOMP_GUEST_SUPP: 0,
} as const;

/**
 * `KVM_EXIT_SHUTDOWN` for 8.
 *
 * @example
 * console.error(`the vCPU has left the guest: ${kvmExitName(run.exitReason)}`);
 */
export function kvmExitName(reason: number): string {
  return Object.entries(KvmExit).find(([, value]) => value === reason)?.[0] ?? `KVM exit ${reason}`;
}

/** Constants that belong to no structure. The requests are in `kvm-layouts.ts`. */
export const kvmConstantLayouts: readonly KernelLayout[] = [KvmCapability, KvmExit, KvmValue].flatMap((numbers) =>
  defines('linux/kvm.h', numbers),
);
