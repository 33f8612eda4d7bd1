import { GodwitError } from '@godwit/core';
import type { KvmVcpu } from '@godwit/linux';
import { CPU_MODELS, Cpuid, type CpuidEntry, type CpuModel, msrName } from '@godwit/linux/kvm';

/**
 * The processor that a guest sees, in its machine's description: plain data, by which a destination knows before a page moves whether it
 * can give the guest the same.
 */
export interface CpuDescription {
  readonly model: CpuModel;
  /** The entries of CPUID on vCPU 0: function, index, flags, eax, ebx, ecx, edx. */
  readonly cpuid: readonly (readonly number[])[];
  /** The MSRs that are saved, by their indices. */
  readonly msrs: readonly number[];
  /** Frequency of the time-stamp counter in kHz; 0 where KVM does not report it. */
  readonly tscKhz: number;
}

const FIELDS = ['function', 'index', 'flags', 'eax', 'ebx', 'ecx', 'edx'] as const satisfies (keyof CpuidEntry)[];
/** Most entries and MSRs of a peer's description: KVM's own limits. */
const MOST_ENTRIES = 256;
const MOST_MSRS = 1024;

/** Describes the processor of a new machine. */
export function describeCpu(model: CpuModel, vcpu: KvmVcpu, msrs: readonly number[]): CpuDescription {
  const cpuid = vcpu.cpuid().entries.map((entry) => FIELDS.map((field) => entry[field]));
  return { model, cpuid, msrs, tscKhz: vcpu.tscKhz() };
}

/**
 * Checks a processor in a peer's description.
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT when it is none
 */
export function parseCpu(given: unknown): CpuDescription | undefined {
  if (given === undefined) return undefined;
  const { model, cpuid, msrs, tscKhz } = (given ?? {}) as Record<string, unknown>;
  const isEntry = (entry: unknown): boolean => isWords(entry, FIELDS.length) && entry.length === FIELDS.length;
  if (
    !CPU_MODELS.includes(model as CpuModel) ||
    !Array.isArray(cpuid) ||
    cpuid.length === 0 ||
    cpuid.length > MOST_ENTRIES ||
    !cpuid.every(isEntry) ||
    !isWords(msrs, MOST_MSRS) ||
    !isWords([tscKhz], 1)
  ) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `a machine's cpu is { model: one of ${CPU_MODELS.join(', ')}, cpuid: entries of ${FIELDS.length} words, msrs, tscKhz }; got another one`,
    );
  }
  return { model: model as CpuModel, cpuid: cpuid as number[][], msrs, tscKhz: tscKhz as number };
}

/**
 * Refuses a guest whose processor this host's KVM cannot be.
 *
 * @param vcpu with all the CPU features that this host offers
 * @param msrs those of `vcpu`
 * @throws GodwitError GODWIT_UNSUPPORTED, naming the features, the MSRs or the frequency that this host does not have
 */
export function refuseOtherCpu(cpu: CpuDescription, vcpu: KvmVcpu, msrs: readonly number[]): void {
  const missing = toCpuid(cpu).missingOn(vcpu.cpuid());
  if (missing.length > 0) {
    throw refused(
      `the guest was told of CPU features that this host's KVM lacks: ${missing.join(', ')}. ` +
        `Run the guest with a CPU model that both hosts have (--cpu ${CPU_MODELS.join(', ')}), or move it to a host like its own`,
    );
  }
  const own = new Set(msrs);
  const unknown = cpu.msrs.filter((index) => !own.has(index));
  if (unknown.length > 0) {
    throw refused(
      `the guest has MSRs that this host's KVM does not name: ${unknown.map(msrName).join(', ')}. ` +
        `Run the guest with a CPU model of fewer features (--cpu), or this host with a kernel as new as the source's`,
    );
  }
  refuseOtherFrequency(cpu.tscKhz, vcpu);
}

function refuseOtherFrequency(khz: number, vcpu: KvmVcpu): void {
  const own = vcpu.tscKhz();
  if (khz === 0 || khz === own) return;
  try {
    vcpu.setTscKhz(khz);
    vcpu.setTscKhz(own);
  } catch (cause) {
    throw refused(
      `the guest's time-stamp counter runs at ${khz} kHz, this host's at ${own}, and KVM cannot scale it here: move the guest to a host of that frequency, or with TSC scaling`,
      cause,
    );
  }
}

function toCpuid({ cpuid }: CpuDescription): Cpuid {
  return new Cpuid(
    cpuid.map((words) => Object.fromEntries(FIELDS.map((field, i) => [field, words[i] ?? 0])) as unknown as CpuidEntry),
  );
}

/** Whether these are numbers of 32 bits, at most so many. */
function isWords(given: unknown, most: number): given is number[] {
  if (!Array.isArray(given) || given.length > most) return false;
  return given.every((word) => Number.isInteger(word) && word >= 0 && word <= 0xffff_ffff);
}

function refused(message: string, cause?: unknown): GodwitError {
  return new GodwitError('GODWIT_UNSUPPORTED', message, { cause });
}
