/** The registers that CPUID writes. */
export type CpuidRegister = 'eax' | 'ebx' | 'ecx' | 'edx';

/** A register in which every bit is a feature, and the names of its bits from bit 0 on. `-` is a bit without a name here. */
export interface FeatureWord {
  readonly function: number;
  readonly index: number;
  readonly register: CpuidRegister;
  readonly names: readonly string[];
}

function word(fn: number, index: number, register: CpuidRegister, names: string): FeatureWord {
  return { function: fn, index, register, names: names.split(/\s+/) };
}

/**
 * Registers in which every bit is a feature: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E;
 * Documentation/virt/kvm/x86/cpuid.rst. The names are those of `/proc/cpuinfo`, where Linux has one, so that a feature that is
 * missing can be looked up on both hosts. A guest that has seen a bit may use the feature, so that a destination must have it.
 */
export const FEATURE_WORDS: readonly FeatureWord[] = [
  word(
    0x1,
    0,
    'ecx',
    `pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm
    - pcid dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave osxsave avx f16c rdrand hypervisor`,
  ),
  word(
    0x1,
    0,
    'edx',
    `fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov
    pat pse36 pn clflush - dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe`,
  ),
  word(
    0x7,
    0,
    'ebx',
    `fsgsbase tsc_adjust sgx bmi1 hle avx2 fdp_excptn_only smep bmi2 erms invpcid rtm cqm zero_fcs_fds mpx rdt_a
    avx512f avx512dq rdseed adx smap avx512ifma - clflushopt clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl`,
  ),
  word(
    0x7,
    0,
    'ecx',
    `prefetchwt1 avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq avx512_vnni avx512_bitalg tme
    avx512_vpopcntdq - la57 - - - - - rdpid key_locker bus_lock_detect cldemote - movdiri movdir64b enqcmd sgx_lc pks`,
  ),
  word(
    0x7,
    0,
    'edx',
    `- sgx_keys avx512_4vnniw avx512_4fmaps fsrm uintr - - avx512_vp2intersect srbds_ctrl md_clear rtm_always_abort - tsx_force_abort
    serialize hybrid_cpu tsxldtrk - pconfig arch_lbr ibt - amx_bf16 avx512_fp16 amx_tile amx_int8 spec_ctrl intel_stibp flush_l1d
    arch_capabilities core_capabilities spec_ctrl_ssbd`,
  ),
  word(
    0x7,
    1,
    'eax',
    `sha512 sm3 sm4 rao_int avx_vnni avx512_bf16 lass cmpccxadd arch_perfmon_ext - fzrm fsrs fsrc - - - - fred lkgs wrmsrns nmi_src
    amx_fp16 hreset avx_ifma - - lam msrlist`,
  ),
  word(
    0x7,
    1,
    'edx',
    '- - - - avx_vnni_int8 avx_ne_convert - - amx_complex - avx_vnni_int16 - - - prefetchi - - user_msr - avx10',
  ),
  word(0x7, 2, 'edx', 'psfd ipred_ctrl rrsba_ctrl ddpd_u bhi_ctrl mcdt_no'),
  word(
    0xd,
    0,
    'eax',
    `xsave_x87 xsave_sse xsave_avx xsave_bndregs xsave_bndcsr xsave_opmask xsave_zmm_hi256 xsave_hi16_zmm xsave_pt xsave_pkru
    xsave_pasid xsave_cet_u xsave_cet_s xsave_hdc xsave_uintr xsave_lbr xsave_hwp xsave_xtilecfg xsave_xtiledata`,
  ),
  word(0xd, 0, 'edx', '-'),
  word(0xd, 1, 'eax', 'xsaveopt xsavec xgetbv1 xsaves xfd'),
  word(
    0x4000_0001,
    0,
    'eax',
    `kvmclock kvm_nopiodelay kvm_mmu kvmclock2 kvm_asyncpf kvm_steal_time kvm_pv_eoi kvm_pv_unhalt - kvm_pv_tlb_flush
    kvm_asyncpf_vmexit kvm_pv_send_ipi kvm_poll_control kvm_pv_sched_yield kvm_asyncpf_int kvm_msi_ext_dest_id
    kvm_hc_map_gpa_range kvm_migration_control - - - - - - kvmclock_stable`,
  ),
  word(
    0x8000_0001,
    0,
    'ecx',
    `lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp
    fma4 tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - bpext ptsc perfctr_llc mwaitx`,
  ),
  // Bits 0 to 9, 12 to 17, 23 and 24 repeat those of leaf 1 on AMD's processors.
  word(
    0x8000_0001,
    0,
    'edx',
    `fpu vme de pse tsc msr pae mce cx8 apic - syscall mtrr pge mca cmov
    pat pse36 - mp nx - mmxext mmx fxsr fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow`,
  ),
  word(
    0x8000_0008,
    0,
    'ebx',
    `clzero irperf xsaveerptr - rdpru - - - - wbnoinvd - - amd_ibpb - amd_ibrs amd_stibp - amd_stibp_always_on - - - - - -
    amd_ssbd virt_ssbd amd_ssb_no - amd_psfd btc_no`,
  ),
  word(
    0x8000_000a,
    0,
    'edx',
    'npt lbrv svm_lock nrip_save tsc_scale vmcb_clean flushbyasid decodeassists - - pausefilter - pfthreshold avic - v_vmsave_vmload vgif',
  ),
  word(0x8000_0021, 0, 'eax', 'no_nested_data_bp - lfence_rdtsc - - - null_seg_clears_base - autoibrs no_smm_ctl_msr'),
];

/**
 * Bits that KVM itself turns on and off as the guest runs, by function: they say what the guest has enabled, and no host offers them.
 * OSXSAVE (1, ecx 27) and APIC (1, edx 9) follow CR4 and the APIC's base, OSPKE (7, ecx 4) follows CR4.
 */
export const LIVE_BITS: Readonly<Record<number, Readonly<Partial<Record<CpuidRegister, number>>>>> = {
  1: { ecx: 1 << 27, edx: 1 << 9 },
  7: { ecx: 1 << 4 },
};

/** The place of a feature in CPUID. */
export interface FeaturePlace {
  readonly function: number;
  readonly index: number;
  readonly register: CpuidRegister;
  readonly bit: number;
}

/** The names of the bits of `mask` in a feature register: `avx512f`, or `leaf 0x7.0 ebx bit 22` for a bit without a name. */
export function featureNames({ function: fn, index, register, names }: FeatureWord, mask: number): readonly string[] {
  const found: string[] = [];
  for (let bit = 0; bit < 32; bit++) {
    if (((mask >>> bit) & 1) === 0) continue;
    const name = names[bit] ?? '-';
    found.push(name === '-' ? `leaf 0x${fn.toString(16)}.${index} ${register} bit ${bit}` : name);
  }
  return found;
}

/** Where a feature is; the first place, of those that repeat one. @throws RangeError for a name that is in no table */
export function featurePlace(name: string): FeaturePlace {
  for (const { function: fn, index, register, names } of FEATURE_WORDS) {
    const bit = names.indexOf(name);
    if (bit >= 0 && name !== '-') return { function: fn, index, register, bit };
  }
  throw new RangeError(`no CPU feature is called "${name}"`);
}
