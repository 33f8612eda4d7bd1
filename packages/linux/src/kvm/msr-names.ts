/** Names of model-specific registers: asm/msr-index.h, asm/kvm_para.h, asm/hyperv-tlfs.h; Intel's `IA32_` where there is one. */
const NAMES: Readonly<Record<number, string>> = {
  16: 'IA32_TSC',
  17: 'KVM_WALL_CLOCK',
  18: 'KVM_SYSTEM_TIME',
  27: 'IA32_APIC_BASE',
  52: 'SMI_COUNT',
  58: 'IA32_FEATURE_CONTROL',
  59: 'IA32_TSC_ADJUST',
  72: 'IA32_SPEC_CTRL',
  139: 'IA32_UCODE_REV',
  158: 'IA32_SMBASE',
  206: 'PLATFORM_INFO',
  225: 'IA32_UMWAIT_CONTROL',
  266: 'IA32_ARCH_CAPABILITIES',
  290: 'IA32_TSX_CTRL',
  320: 'MISC_FEATURES_ENABLES',
  372: 'IA32_SYSENTER_CS',
  373: 'IA32_SYSENTER_ESP',
  374: 'IA32_SYSENTER_EIP',
  378: 'IA32_MCG_STATUS',
  379: 'IA32_MCG_CTL',
  416: 'IA32_MISC_ENABLE',
  452: 'IA32_XFD',
  453: 'IA32_XFD_ERR',
  473: 'IA32_DEBUGCTL',
  475: 'LASTBRANCHFROMIP',
  476: 'LASTBRANCHTOIP',
  477: 'LASTINTFROMIP',
  478: 'LASTINTTOIP',
  508: 'IA32_POWER_CTL',
  631: 'IA32_PAT',
  767: 'IA32_MTRR_DEF_TYPE',
  837: 'IA32_PERF_CAPABILITIES',
  909: 'IA32_FIXED_CTR_CTRL',
  910: 'IA32_PERF_GLOBAL_STATUS',
  911: 'IA32_PERF_GLOBAL_CTRL',
  912: 'IA32_PERF_GLOBAL_OVF_CTRL',
  1009: 'IA32_PEBS_ENABLE',
  1392: 'IA32_RTIT_CTL',
  1536: 'IA32_DS_AREA',
  1696: 'IA32_U_CET',
  1698: 'IA32_S_CET',
  1760: 'IA32_TSC_DEADLINE',
  3472: 'IA32_BNDCFGS',
  3488: 'IA32_XSS',
  1073741824: 'HV_GUEST_OS_ID',
  1073741825: 'HV_HYPERCALL',
  1073741856: 'HV_TIME_REF_COUNT',
  1073741857: 'HV_REFERENCE_TSC',
  1073741939: 'HV_VP_ASSIST_PAGE',
  1263947008: 'KVM_WALL_CLOCK_NEW',
  1263947009: 'KVM_SYSTEM_TIME_NEW',
  1263947010: 'KVM_ASYNC_PF_EN',
  1263947011: 'KVM_STEAL_TIME',
  1263947012: 'KVM_PV_EOI_EN',
  1263947013: 'KVM_POLL_CONTROL',
  1263947014: 'KVM_ASYNC_PF_INT',
  1263947015: 'KVM_ASYNC_PF_ACK',
  1263947016: 'KVM_MIGRATION_CONTROL',
  3221225600: 'EFER',
  3221225601: 'STAR',
  3221225602: 'LSTAR',
  3221225603: 'CSTAR',
  3221225604: 'SYSCALL_MASK',
  3221225730: 'KERNEL_GS_BASE',
  3221225731: 'TSC_AUX',
  3221225732: 'AMD64_TSC_RATIO',
  3221291029: 'K7_HWCR',
  3221291287: 'VM_HSAVE_PA',
  3221291295: 'AMD64_VIRT_SPEC_CTRL',
  3221295145: 'AMD64_DE_CFG',
};

/** Registers that there are many of: the first, how many, and how they are called. */
const RANGES: readonly (readonly [first: number, count: number, name: (i: number) => string])[] = [
  [0xc1, 18, (i) => `IA32_PMC${i}`],
  [0x186, 18, (i) => `IA32_PERFEVTSEL${i}`],
  [0x200, 20, (i) => `IA32_MTRR_PHYS${i % 2 === 0 ? 'BASE' : 'MASK'}${i >> 1}`],
  [0x250, 1, () => 'IA32_MTRR_FIX64K_00000'],
  [0x258, 2, (i) => `IA32_MTRR_FIX16K_${i === 0 ? '80000' : 'A0000'}`],
  [0x268, 8, (i) => `IA32_MTRR_FIX4K_${(0xc_0000 + i * 0x8000).toString(16).toUpperCase()}`],
  [0x280, 32, (i) => `IA32_MC${i}_CTL2`],
  [0x309, 4, (i) => `IA32_FIXED_CTR${i}`],
  [0x400, 128, (i) => `IA32_MC${i >> 2}_${['CTL', 'STATUS', 'ADDR', 'MISC'][i & 3]}`],
  [0x480, 20, (i) => `IA32_VMX capability ${i}`],
  [0x6a4, 5, (i) => ['IA32_PL0_SSP', 'IA32_PL1_SSP', 'IA32_PL2_SSP', 'IA32_PL3_SSP', 'IA32_INT_SSP_TAB'][i] as string],
];

/**
 * The name of a model-specific register with its number, `IA32_XSS (0xda0)`, or its number alone.
 *
 * @example
 * msrName(0x3b); // 'IA32_TSC_ADJUST (0x3b)'
 */
export function msrName(index: number): string {
  const number = `0x${index.toString(16)}`;
  const [first, , named] = RANGES.find(([from, count]) => index >= from && index < from + count) ?? [0, 0, undefined];
  const name = NAMES[index] ?? named?.(index - first);
  return name === undefined ? number : `${name} (${number})`;
}
