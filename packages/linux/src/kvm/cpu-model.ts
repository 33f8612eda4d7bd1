import { GodwitError } from '@godwit/core/errors';
import { featurePlace } from './cpu-features.js';
import { Cpuid, type CpuidEntry } from './cpuid.js';

/**
 * The processors that a guest can be given. `host` is everything that this host's KVM offers, which may be less elsewhere. The others are
 * the levels of the x86-64 psABI (section 3.1.1): they are the same on every host that has them.
 */
export const CPU_MODELS = ['host', 'x86-64', 'x86-64-v2', 'x86-64-v3', 'x86-64-v4'] as const;
/** The name of a processor that a guest can be given. */
export type CpuModel = (typeof CPU_MODELS)[number];

/** Features of every level: the psABI's, those that Linux counts on, and those that KVM makes itself. */
const BASE = `fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2
  syscall nx lm x2apic hypervisor tsc_adjust kvmclock kvm_nopiodelay kvmclock2 kvm_pv_eoi kvm_pv_unhalt kvmclock_stable`;
const LEVEL_2 = 'cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3';
const LEVEL_3 = 'avx avx2 bmi1 bmi2 f16c fma abm movbe xsave xsave_x87 xsave_sse xsave_avx';
const LEVEL_4 = 'avx512f avx512bw avx512cd avx512dq avx512vl xsave_opmask xsave_zmm_hi256 xsave_hi16_zmm';

interface Level {
  readonly features: string;
  /** Leaf 1, eax: family, model and stepping of Intel's processors, by which a guest chooses its workarounds. */
  readonly intel: number;
}

/** The signatures are those of Nehalem, Haswell and Skylake's server. */
const LEVELS: Readonly<Record<Exclude<CpuModel, 'host'>, Level>> = {
  'x86-64': { features: BASE, intel: 0x0001_06a3 },
  'x86-64-v2': { features: `${BASE} ${LEVEL_2}`, intel: 0x0001_06a3 },
  'x86-64-v3': { features: `${BASE} ${LEVEL_2} ${LEVEL_3}`, intel: 0x0003_06c4 },
  'x86-64-v4': { features: `${BASE} ${LEVEL_2} ${LEVEL_3} ${LEVEL_4}`, intel: 0x0005_0654 },
};
/** Family 23, model 1, stepping 2: the first EPYC. */
const AMD_SIGNATURE = 0x0080_0f12;

const SIGNIFICANT_INDEX = 1;
const LAST_BASIC = 0xd;
const LAST_EXTENDED = 0x8000_0008;
/** Lines of 64 bytes for CLFLUSH, in units of 8, in bits 8 to 15 of leaf 1, ebx; one logical processor in bits 16 to 23. */
const CACHE_LINE_AND_COUNT = 0x0001_0800;
/** Widths of addresses, in bits: linear in bits 8 to 15, physical in bits 0 to 7. */
const ADDRESS_WIDTHS = 0x3028;
/** Leaf 6, eax: the local APIC's timer always runs, as KVM's does. */
const ALWAYS_RUNNING_TIMER = 0x4;
const KVM_SIGNATURE = 'KVMKVMKVM\0\0\0';
/** The first part of an XSAVE area: legacy state and the header. Bytes. */
const XSAVE_LEGACY_BYTES = 576;
/**
 * Features whose state does not move: what a shadow stack's register holds (KVM has it in no MSR), and memory of SGX.
 */
const NOT_MOVED = ['shstk', 'sgx', 'sgx_lc'];

/**
 * The CPUID of a model on this host. It is the same on every host of one vendor that has the model's features, but for `host`, which has
 * all that `supported` has and what can be moved.
 *
 * @param supported what this host's KVM offers, with the features that it leaves to the VMM to add
 * @throws GodwitError GODWIT_UNSUPPORTED, naming the features that this host lacks; GODWIT_INVALID_ARGUMENT for a model that is unknown
 * @example
 * vcpu.setCpuid(cpuidOfModel('x86-64-v3', kvm.supportedCpuid()).forVcpu(vcpu.id));
 */
export function cpuidOfModel(model: CpuModel, supported: Cpuid): Cpuid {
  if (model === 'host') return movable(supported);
  const level = LEVELS[model];
  if (level === undefined) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `a CPU model is one of ${CPU_MODELS.join(', ')}, got ${JSON.stringify(model)}`,
    );
  }
  const cpuid = modelled(model, level, supported);
  const missing = cpuid.missingOn(supported);
  if (missing.length === 0) return cpuid;
  throw new GodwitError(
    'GODWIT_UNSUPPORTED',
    `the CPU model ${model} has ${missing.join(', ')}, which this host's KVM does not offer: choose a model of fewer features, or "host"`,
  );
}

function movable(supported: Cpuid): Cpuid {
  return NOT_MOVED.reduce((cpuid, name) => {
    const { function: fn, index, register, bit } = featurePlace(name);
    return cpuid.without(fn, index, register, 1 << bit);
  }, supported);
}

function modelled(model: string, { features, intel }: Level, supported: Cpuid): Cpuid {
  const isAmd = supported.vendor === 'AuthenticAMD' || supported.vendor === 'HygonGenuine';
  const vendor = supported.leaf(0);
  const names = features.trim().split(/\s+/);
  const bits = (fn: number, index: number, register: string): number =>
    names
      .map(featurePlace)
      .filter((place) => place.function === fn && place.index === index && place.register === register)
      .reduce((word, { bit }) => (word | (1 << bit)) >>> 0, 0);
  const leaf = (fn: number, registers: Partial<CpuidEntry>, index?: number): CpuidEntry => ({
    ...{ function: fn, index: index ?? 0, flags: index === undefined ? 0 : SIGNIFICANT_INDEX },
    ...{ eax: 0, ebx: 0, ecx: 0, edx: 0 },
    ...registers,
  });
  return new Cpuid([
    leaf(0, { ebx: vendor?.ebx ?? 0, ecx: vendor?.ecx ?? 0, edx: vendor?.edx ?? 0, eax: LAST_BASIC }),
    leaf(1, {
      eax: isAmd ? AMD_SIGNATURE : intel,
      ebx: CACHE_LINE_AND_COUNT,
      // The VMM adds the timer where its KVM has it, for every model alike.
      ecx: (bits(1, 0, 'ecx') | deadlineTimer(supported)) >>> 0,
      edx: bits(1, 0, 'edx'),
    }),
    leaf(6, { eax: ALWAYS_RUNNING_TIMER }),
    leaf(7, { ebx: bits(7, 0, 'ebx') }, 0),
    ...xsaveLeaves(bits(0xd, 0, 'eax'), supported, leaf),
    leaf(0x4000_0000, { eax: 0x4000_0001, ...text(KVM_SIGNATURE, ['ebx', 'ecx', 'edx']) }),
    leaf(0x4000_0001, { eax: bits(0x4000_0001, 0, 'eax') }),
    leaf(0x8000_0000, { eax: LAST_EXTENDED }),
    leaf(0x8000_0001, { ecx: bits(0x8000_0001, 0, 'ecx'), edx: bits(0x8000_0001, 0, 'edx') }),
    ...[0, 1, 2].map((part) =>
      leaf(
        0x8000_0002 + part,
        text(`Godwit ${model}`.padEnd(48, '\0').slice(16 * part, 16 * part + 16), ['eax', 'ebx', 'ecx', 'edx']),
      ),
    ),
    leaf(LAST_EXTENDED, { eax: ADDRESS_WIDTHS }),
  ]);
}

function deadlineTimer(supported: Cpuid): number {
  const { bit } = featurePlace('tsc_deadline_timer');
  return (supported.leaf(1)?.ecx ?? 0) & (1 << bit);
}

/** The leaves of the XSAVE area's components from 2 on, whose places are the processor's; none without XSAVE. */
function xsaveLeaves(
  components: number,
  supported: Cpuid,
  leaf: (fn: number, registers: Partial<CpuidEntry>, index: number) => CpuidEntry,
): CpuidEntry[] {
  if (components === 0) return [];
  const parts = Array.from({ length: 30 }, (_, i) => i + 2)
    .filter((component) => ((components >>> component) & 1) !== 0)
    .map((component) => leaf(0xd, { ...supported.leaf(0xd, component), flags: SIGNIFICANT_INDEX }, component));
  const bytes = Math.max(XSAVE_LEGACY_BYTES, ...parts.map(({ eax, ebx }) => eax + ebx));
  return [leaf(0xd, { eax: components, ebx: bytes, ecx: bytes }, 0), leaf(0xd, {}, 1), ...parts];
}

/** Characters in registers, four in each, the first in the lowest byte. */
function text(characters: string, registers: readonly ('eax' | 'ebx' | 'ecx' | 'edx')[]): Partial<CpuidEntry> {
  const bytes = Buffer.from(characters, 'latin1');
  return Object.fromEntries(registers.map((register, i) => [register, bytes.readUInt32LE(4 * i)]));
}
