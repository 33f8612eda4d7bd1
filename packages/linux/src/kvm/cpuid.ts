import { GodwitError } from '@godwit/core/errors';
import { type CpuidRegister, FEATURE_WORDS, featureNames, LIVE_BITS } from './cpu-features.js';
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

/** Leaf 0 has the vendor's name in these registers, in this order. */
const VENDOR_REGISTERS = ['ebx', 'edx', 'ecx'] as const;
/** The leaf with the widths of addresses; bits 0 to 7 of eax are those of a physical one. */
const ADDRESS_LEAF = 0x8000_0008;

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
  with(fn: number, index: number, bits: Readonly<Partial<Record<CpuidRegister, number>>>): Cpuid {
    return new Cpuid(
      this.entries.map((entry) => {
        if (entry.function !== fn || entry.index !== index) return entry;
        const changed = Object.entries(bits).map(([name, mask]) => [name, (entry[name as CpuidRegister] | mask) >>> 0]);
        return { ...entry, ...Object.fromEntries(changed) };
      }),
    );
  }

  /** The same CPU without these bits of a register. */
  without(fn: number, index: number, register: CpuidRegister, mask: number): Cpuid {
    return new Cpuid(
      this.entries.map((entry) =>
        entry.function === fn && entry.index === index
          ? { ...entry, [register]: (entry[register] & ~mask) >>> 0 }
          : entry,
      ),
    );
  }

  /** The entry of a leaf; undefined when there is none. */
  leaf(fn: number, index = 0): CpuidEntry | undefined {
    return this.entries.find((entry) => entry.function === fn && entry.index === index);
  }

  /** `GenuineIntel`, `AuthenticAMD`, ...; empty without leaf 0. */
  get vendor(): string {
    const leaf = this.leaf(0);
    if (leaf === undefined) return '';
    return Buffer.from(Uint32Array.from(VENDOR_REGISTERS.map((name) => leaf[name])).buffer).toString('latin1');
  }

  /**
   * What of this CPU `host` cannot give, each by its name: a feature as in /proc/cpuinfo (`avx512f`), the vendor, or wider physical
   * addresses; empty when a guest of this CPU can run there.
   */
  missingOn(host: Cpuid): readonly string[] {
    const missing = new Set<string>();
    for (const word of FEATURE_WORDS) {
      const wanted = this.leaf(word.function, word.index)?.[word.register];
      if (wanted === undefined) continue;
      const offered = host.leaf(word.function, word.index)?.[word.register] ?? 0;
      const live = LIVE_BITS[word.function]?.[word.register] ?? 0;
      for (const name of featureNames(word, (wanted & ~offered & ~live) >>> 0)) missing.add(name);
    }
    const [vendor, theirs] = [this.vendor, host.vendor];
    if (vendor !== '' && theirs !== '' && vendor !== theirs) missing.add(`vendor ${vendor} (the host has ${theirs})`);
    const [width, most] = [this, host].map((cpu) => (cpu.leaf(ADDRESS_LEAF)?.eax ?? 0) & 0xff) as [number, number];
    if (most !== 0 && width > most) missing.add(`physical addresses of ${width} bits (the host has ${most})`);
    return [...missing];
  }
}
