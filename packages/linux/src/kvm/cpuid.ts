import { GodwitError } from '@godwit/core/errors';
import { kvmCpuid2, kvmCpuidEntry2 } from './kvm-structs.js';

/** The most entries that KVM accepts (KVM_MAX_CPUID_ENTRIES, asm/kvm_host.h). */
const MAX_ENTRIES = 256;

const HEADER_WORDS = kvmCpuid2.size / 4;
const ENTRY_WORDS = kvmCpuidEntry2.size / 4;

/** One answer of the CPUID instruction. */
export interface CpuidEntry {
  readonly function: number;
  readonly index: number;
  /** KVM_CPUID_FLAG_*: whether `index` matters. */
  readonly flags: number;
  readonly eax: number;
  readonly ebx: number;
  readonly ecx: number;
  readonly edx: number;
}

type Register = 'eax' | 'ebx' | 'ecx' | 'edx';

/**
 * Registers in which every bit is a feature, by (function, index): Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix
 * E. A guest that has seen a feature bit may use the feature, so the destination must have it.
 */
const FEATURE_BITS: readonly (readonly [fn: number, index: number, registers: readonly Register[]])[] = [
  [0x1, 0, ['ecx', 'edx']],
  [0x7, 0, ['ebx', 'ecx', 'edx']],
  [0x7, 1, ['eax']],
  [0xd, 0, ['eax', 'edx']],
  [0xd, 1, ['eax']],
  [0x4000_0001, 0, ['eax']],
  [0x8000_0001, 0, ['ecx', 'edx']],
  [0x8000_0008, 0, ['ebx']],
];

/**
 * Bits that KVM itself turns on and off as the guest runs, by function: they say what the guest has enabled, and no host offers them.
 * OSXSAVE (1, ecx 27) and APIC (1, edx 9) follow CR4 and the APIC's base, OSPKE (7, ecx 4) follows CR4.
 */
const LIVE_BITS: Readonly<Record<number, Readonly<Partial<Record<Register, number>>>>> = {
  1: { ecx: 1 << 27, edx: 1 << 9 },
  7: { ecx: 1 << 4 },
};

/**
 * The answers of CPUID to a guest: `struct kvm_cpuid2` with its entries.
 *
 * @example
 * const missing = vcpu.cpuid().missingOn(kvm.supportedCpuid());
 * if (missing.length > 0) throw new Error(`this host lacks ${missing.join(', ')}`);
 */
export class Cpuid {
  readonly entries: readonly CpuidEntry[];

  constructor(entries: readonly CpuidEntry[]) {
    this.entries = entries;
  }

  /** Makes a buffer with room for the most entries that KVM returns. */
  static room(): Uint8Array {
    const words = new Uint32Array(HEADER_WORDS + MAX_ENTRIES * ENTRY_WORDS);
    words[0] = MAX_ENTRIES;
    return new Uint8Array(words.buffer);
  }

  /** Reads KVM's `struct kvm_cpuid2`. Throws `GODWIT_INVALID_ARGUMENT` when the bytes are not one. */
  static decode(bytes: Uint8Array): Cpuid {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const count = bytes.byteLength >= kvmCpuid2.size ? view.getUint32(0, true) : 0;
    if (count === 0 || count > MAX_ENTRIES || bytes.byteLength < kvmCpuid2.size + count * kvmCpuidEntry2.size) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        `${count} CPUID entries do not fit the ${bytes.byteLength} bytes given`,
      );
    }
    const entries: CpuidEntry[] = [];
    const { fields } = kvmCpuidEntry2;
    for (let i = 0; i < count; i++) {
      const at = kvmCpuid2.size + i * kvmCpuidEntry2.size;
      entries.push({
        function: view.getUint32(at + fields.function[0], true),
        index: view.getUint32(at + fields.index[0], true),
        flags: view.getUint32(at + fields.flags[0], true),
        eax: view.getUint32(at + fields.eax[0], true),
        ebx: view.getUint32(at + fields.ebx[0], true),
        ecx: view.getUint32(at + fields.ecx[0], true),
        edx: view.getUint32(at + fields.edx[0], true),
      });
    }
    return new Cpuid(entries);
  }

  /** Makes KVM's `struct kvm_cpuid2`. */
  encode(): Uint8Array {
    const words = new Uint32Array(HEADER_WORDS + this.entries.length * ENTRY_WORDS);
    words[0] = this.entries.length;
    this.entries.forEach((entry, i) => {
      const { function: fn, index, flags, eax, ebx, ecx, edx } = entry;
      words.set([fn, index, flags, eax, ebx, ecx, edx], HEADER_WORDS + i * ENTRY_WORDS);
    });
    return new Uint8Array(words.buffer);
  }

  /** Returns the same CPU with the APIC id of a vCPU, in the three places where CPUID gives it. */
  forVcpu(apicId: number): Cpuid {
    return new Cpuid(
      this.entries.map((entry) => {
        if (entry.function === 0x1) return { ...entry, ebx: ((entry.ebx & 0x00ff_ffff) | (apicId << 24)) >>> 0 };
        if (entry.function === 0xb || entry.function === 0x1f) return { ...entry, edx: apicId };
        if (entry.function === 0x8000_001e) return { ...entry, eax: apicId };
        return entry;
      }),
    );
  }

  /** The same CPU with these bits of a register set; an entry that does not exist stays absent. */
  with(fn: number, index: number, bits: Readonly<Partial<Record<Register, number>>>): Cpuid {
    return new Cpuid(
      this.entries.map((entry) => {
        if (entry.function !== fn || entry.index !== index) return entry;
        const changed = Object.entries(bits).map(([name, mask]) => [name, (entry[name as Register] | mask) >>> 0]);
        return { ...entry, ...Object.fromEntries(changed) };
      }),
    );
  }

  /** Features of this CPU that `host` cannot give, as `leaf 7.0 ebx 0x20`; empty when a guest of this CPU can run there. */
  missingOn(host: Cpuid): readonly string[] {
    const missing: string[] = [];
    for (const [fn, index, registers] of FEATURE_BITS) {
      const wanted = this.#find(fn, index);
      if (wanted === undefined) continue;
      const offered = host.#find(fn, index);
      for (const register of registers) {
        const live = LIVE_BITS[fn]?.[register] ?? 0;
        const lacking = (wanted[register] & ~(offered?.[register] ?? 0) & ~live) >>> 0;
        if (lacking !== 0) missing.push(`leaf 0x${fn.toString(16)}.${index} ${register} 0x${lacking.toString(16)}`);
      }
    }
    return missing;
  }

  #find(fn: number, index: number): CpuidEntry | undefined {
    return this.entries.find((entry) => entry.function === fn && entry.index === index);
  }
}
