import { defines, type KernelLayout } from '../layouts/index.js';
import { KvmSystemRequest, KvmVcpuRequest, KvmVmRequest, kvmConstantLayouts } from './kvm-constants.js';
import * as structs from './kvm-structs.js';

/**
 * The struct whose size is in a request's number. Requests that are not listed have no struct (`_IO`), or a bare integer
 * (KVM_SET_IDENTITY_MAP_ADDR).
 */
const ARGUMENTS: Readonly<Record<string, string>> = {
  KVM_GET_MSR_INDEX_LIST: 'kvm_msr_list',
  KVM_GET_SUPPORTED_CPUID: 'kvm_cpuid2',
  KVM_GET_MSR_FEATURE_INDEX_LIST: 'kvm_msr_list',
  KVM_GET_NESTED_STATE: 'kvm_nested_state',
  KVM_SET_NESTED_STATE: 'kvm_nested_state',
  KVM_SET_DEVICE_ATTR: 'kvm_device_attr',
  KVM_GET_DEVICE_ATTR: 'kvm_device_attr',
  KVM_HAS_DEVICE_ATTR: 'kvm_device_attr',
  KVM_IOEVENTFD: 'kvm_ioeventfd',
  KVM_SET_USER_MEMORY_REGION: 'kvm_userspace_memory_region',
  KVM_IRQ_LINE: 'kvm_irq_level',
  KVM_GET_IRQCHIP: 'kvm_irqchip',
  KVM_SET_IRQCHIP: 'kvm_irqchip',
  KVM_CREATE_PIT2: 'kvm_pit_config',
  KVM_GET_PIT2: 'kvm_pit_state2',
  KVM_SET_PIT2: 'kvm_pit_state2',
  KVM_GET_CLOCK: 'kvm_clock_data',
  KVM_SET_CLOCK: 'kvm_clock_data',
  KVM_GET_REGS: 'kvm_regs',
  KVM_SET_REGS: 'kvm_regs',
  KVM_GET_SREGS: 'kvm_sregs',
  KVM_SET_SREGS: 'kvm_sregs',
  KVM_GET_SREGS2: 'kvm_sregs2',
  KVM_SET_SREGS2: 'kvm_sregs2',
  KVM_GET_FPU: 'kvm_fpu',
  KVM_SET_FPU: 'kvm_fpu',
  KVM_GET_MSRS: 'kvm_msrs',
  KVM_SET_MSRS: 'kvm_msrs',
  KVM_GET_LAPIC: 'kvm_lapic_state',
  KVM_SET_LAPIC: 'kvm_lapic_state',
  KVM_SET_CPUID2: 'kvm_cpuid2',
  KVM_GET_CPUID2: 'kvm_cpuid2',
  KVM_GET_MP_STATE: 'kvm_mp_state',
  KVM_SET_MP_STATE: 'kvm_mp_state',
  KVM_GET_VCPU_EVENTS: 'kvm_vcpu_events',
  KVM_SET_VCPU_EVENTS: 'kvm_vcpu_events',
  KVM_GET_DEBUGREGS: 'kvm_debugregs',
  KVM_SET_DEBUGREGS: 'kvm_debugregs',
  KVM_GET_XSAVE: 'kvm_xsave',
  KVM_SET_XSAVE: 'kvm_xsave',
  KVM_GET_XSAVE2: 'kvm_xsave',
  KVM_GET_XCRS: 'kvm_xcrs',
  KVM_SET_XCRS: 'kvm_xcrs',
};

/**
 * The parts of linux/kvm.h that exist, or have this form, on x86-64 only: a vCPU's registers, its interrupt chips and timer,
 * CPUID and MSRs.
 */
const ONLY_X64: ReadonlySet<string> = new Set([
  ...['kvm_regs', 'kvm_sregs', 'kvm_sregs2', 'kvm_segment', 'kvm_fpu', 'kvm_xsave', 'kvm_xcrs', 'kvm_debugregs'],
  ...[
    'kvm_vcpu_events',
    'kvm_lapic_state',
    'kvm_msr_entry',
    'kvm_msr_list',
    'kvm_msrs',
    'kvm_cpuid2',
    'kvm_cpuid_entry2',
  ],
  ...['kvm_pit_state2', 'KVM_CAP_PIT2', 'KVM_CAP_PIT_STATE2', 'KVM_CAP_DEBUGREGS', 'KVM_CAP_XSAVE', 'KVM_CAP_XCRS'],
  ...['kvm_nested_state', 'KVM_VCPU_TSC_CTRL', 'KVM_VCPU_TSC_OFFSET', 'KVM_X86_XCOMP_GUEST_SUPP'],
  ...['KVM_IRQCHIP_PIC_MASTER', 'KVM_IRQCHIP_PIC_SLAVE', 'KVM_IRQCHIP_IOAPIC', 'KVM_CPUID_FLAG_SIGNIFCANT_INDEX'],
]);

function marked<Layout extends KernelLayout>(layout: Layout): Layout {
  const name = 'struct' in layout ? layout.struct : layout.define;
  const argument = 'argument' in layout ? (layout.argument ?? '') : '';
  // On arm64 the struct has other fields in as many bytes, and its requests have the same numbers.
  const sameSize = argument === 'kvm_vcpu_events';
  return ONLY_X64.has(name) || (ONLY_X64.has(argument) && !sameSize) ? { ...layout, only: 'x64' } : layout;
}

/** Everything that `kvm/` assumes about linux/kvm.h. */
export const kvmLayouts: readonly KernelLayout[] = [
  ...Object.values(structs),
  ...kvmConstantLayouts,
  ...[KvmSystemRequest, KvmVmRequest, KvmVcpuRequest].flatMap((requests) =>
    Object.entries(requests).flatMap(([name, value]) => {
      const argument = ARGUMENTS[name];
      return defines('linux/kvm.h', { [name]: value }, argument === undefined ? {} : { argument });
    }),
  ),
].map((layout: KernelLayout) => marked(layout));
