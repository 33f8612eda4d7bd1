import type { StructLayout } from '../layouts/index.js';

/*
 * Layouts of linux/kvm.h on x86-64. Structures that are only copied from one KVM to another (FPU, LAPIC, events) are
 * opaque bytes: only their size is here.
 */
const header = 'linux/kvm.h';

export const kvmUserspaceMemoryRegion = {
  header,
  struct: 'kvm_userspace_memory_region',
  size: 32,
  fields: { slot: [0, 4], flags: [4, 4], guest_phys_addr: [8, 8], memory_size: [16, 8], userspace_addr: [24, 8] },
} as const satisfies StructLayout;

export const kvmRun = {
  header,
  struct: 'kvm_run',
  size: 2352,
  fields: {
    request_interrupt_window: [0, 1],
    immediate_exit: [1, 1],
    exit_reason: [8, 4],
    'io.direction': [32, 1],
    'io.size': [33, 1],
    'io.port': [34, 2],
    'io.count': [36, 4],
    'io.data_offset': [40, 8],
    'mmio.phys_addr': [32, 8],
    'mmio.data': [40, 8],
    'mmio.len': [48, 4],
    'mmio.is_write': [52, 1],
    'internal.suberror': [32, 4],
    'internal.ndata': [36, 4],
    'internal.data': [40, 128],
    'fail_entry.hardware_entry_failure_reason': [32, 8],
    'system_event.type': [32, 4],
  },
} as const satisfies StructLayout;

export const kvmRegs = {
  header,
  struct: 'kvm_regs',
  size: 144,
  fields: {
    rax: [0, 8],
    rbx: [8, 8],
    rcx: [16, 8],
    rdx: [24, 8],
    rsi: [32, 8],
    rdi: [40, 8],
    rsp: [48, 8],
    rbp: [56, 8],
    r8: [64, 8],
    r9: [72, 8],
    r10: [80, 8],
    r11: [88, 8],
    r12: [96, 8],
    r13: [104, 8],
    r14: [112, 8],
    r15: [120, 8],
    rip: [128, 8],
    rflags: [136, 8],
  },
} as const satisfies StructLayout;

export const kvmSegment = {
  header,
  struct: 'kvm_segment',
  size: 24,
  fields: {
    base: [0, 8],
    limit: [8, 4],
    selector: [12, 2],
    type: [14, 1],
    present: [15, 1],
    dpl: [16, 1],
    db: [17, 1],
    s: [18, 1],
    l: [19, 1],
    g: [20, 1],
    avl: [21, 1],
    unusable: [22, 1],
  },
} as const satisfies StructLayout;

export const kvmSregs = {
  header,
  struct: 'kvm_sregs',
  size: 312,
  fields: {
    cs: [0, 24],
    ds: [24, 24],
    es: [48, 24],
    fs: [72, 24],
    gs: [96, 24],
    ss: [120, 24],
    tr: [144, 24],
    ldt: [168, 24],
    gdt: [192, 16],
    idt: [208, 16],
    cr0: [224, 8],
    cr2: [232, 8],
    cr3: [240, 8],
    cr4: [248, 8],
    cr8: [256, 8],
    efer: [264, 8],
    apic_base: [272, 8],
    interrupt_bitmap: [280, 32],
  },
} as const satisfies StructLayout;

export const kvmSregs2 = {
  header,
  struct: 'kvm_sregs2',
  size: 320,
  fields: { cr0: [224, 8], flags: [280, 8], pdptrs: [288, 32] },
} as const satisfies StructLayout;
export const kvmFpu = { header, struct: 'kvm_fpu', size: 416, fields: {} } as const satisfies StructLayout;
/** The part with a fixed size; KVM_CAP_XSAVE2 returns how many bytes KVM_GET_XSAVE2 writes. */
export const kvmXsave = { header, struct: 'kvm_xsave', size: 4096, fields: {} } as const satisfies StructLayout;
export const kvmXcrs = {
  header,
  struct: 'kvm_xcrs',
  size: 392,
  fields: { nr_xcrs: [0, 4], flags: [4, 4], xcrs: [8, 256] },
} as const satisfies StructLayout;
export const kvmDebugregs = { header, struct: 'kvm_debugregs', size: 128, fields: {} } as const satisfies StructLayout;
export const kvmLapicState = {
  header,
  struct: 'kvm_lapic_state',
  size: 1024,
  fields: {},
} as const satisfies StructLayout;
export const kvmVcpuEvents = {
  header,
  struct: 'kvm_vcpu_events',
  size: 64,
  fields: { flags: [20, 4] },
} as const satisfies StructLayout;
export const kvmMpState = {
  header,
  struct: 'kvm_mp_state',
  size: 4,
  fields: { mp_state: [0, 4] },
} as const satisfies StructLayout;

/** Followed by `nmsrs` entries. */
export const kvmMsrs = {
  header,
  struct: 'kvm_msrs',
  size: 8,
  fields: { nmsrs: [0, 4] },
} as const satisfies StructLayout;
export const kvmMsrEntry = {
  header,
  struct: 'kvm_msr_entry',
  size: 16,
  fields: { index: [0, 4], data: [8, 8] },
} as const satisfies StructLayout;
/** Followed by `nmsrs` numbers of 4 bytes. */
export const kvmMsrList = {
  header,
  struct: 'kvm_msr_list',
  size: 4,
  fields: { nmsrs: [0, 4] },
} as const satisfies StructLayout;
/** Followed by `nent` entries. */
export const kvmCpuid2 = {
  header,
  struct: 'kvm_cpuid2',
  size: 8,
  fields: { nent: [0, 4] },
} as const satisfies StructLayout;
export const kvmCpuidEntry2 = {
  header,
  struct: 'kvm_cpuid_entry2',
  size: 40,
  fields: { function: [0, 4], index: [4, 4], flags: [8, 4], eax: [12, 4], ebx: [16, 4], ecx: [20, 4], edx: [24, 4] },
} as const satisfies StructLayout;

/** The head of the file of a vCPU's statistics. */
export const kvmStatsHeader = {
  header,
  struct: 'kvm_stats_header',
  size: 24,
  fields: {
    flags: [0, 4],
    name_size: [4, 4],
    num_desc: [8, 4],
    id_offset: [12, 4],
    desc_offset: [16, 4],
    data_offset: [20, 4],
  },
} as const satisfies StructLayout;
/** Followed by `name_size` bytes of name. */
export const kvmStatsDescriptor = {
  header,
  struct: 'kvm_stats_desc',
  size: 16,
  fields: { flags: [0, 4], exponent: [4, 2], size: [6, 2], offset: [8, 4], bucket_size: [12, 4] },
} as const satisfies StructLayout;

/** `irq` is a number of the interrupt controllers; above 15, of the IOAPIC alone. */
export const kvmIrqLevel = {
  header,
  struct: 'kvm_irq_level',
  size: 8,
  fields: { irq: [0, 4], level: [4, 4] },
} as const satisfies StructLayout;

export const kvmIrqchip = {
  header,
  struct: 'kvm_irqchip',
  size: 520,
  fields: { chip_id: [0, 4], chip: [8, 512] },
} as const satisfies StructLayout;
export const kvmPitConfig = {
  header,
  struct: 'kvm_pit_config',
  size: 64,
  fields: { flags: [0, 4] },
} as const satisfies StructLayout;
export const kvmPitState2 = { header, struct: 'kvm_pit_state2', size: 112, fields: {} } as const satisfies StructLayout;
export const kvmClockData = {
  header,
  struct: 'kvm_clock_data',
  size: 48,
  fields: { clock: [0, 8], flags: [8, 4], realtime: [16, 8], host_tsc: [24, 8] },
} as const satisfies StructLayout;

/** `addr` is the address of the attribute's value in this process. */
export const kvmDeviceAttr = {
  header,
  struct: 'kvm_device_attr',
  size: 24,
  fields: { flags: [0, 4], group: [4, 4], attr: [8, 8], addr: [16, 8] },
} as const satisfies StructLayout;
/** The head; what follows (a VMCS or VMCB of the guest's own guest) is part of the `size` in it. */
export const kvmNestedState = {
  header,
  struct: 'kvm_nested_state',
  size: 128,
  fields: { flags: [0, 2], format: [2, 2], size: [4, 4], 'hdr.vmx.vmxon_pa': [8, 8] },
} as const satisfies StructLayout;
export const kvmIoeventfd = {
  header,
  struct: 'kvm_ioeventfd',
  size: 64,
  fields: { datamatch: [0, 8], addr: [8, 8], len: [16, 4], fd: [20, 4], flags: [24, 4] },
} as const satisfies StructLayout;
