import { kvmRegs, kvmSegment, kvmSregs } from './kvm-structs.js';

/** General-purpose registers. */
export type GeneralRegister = keyof (typeof kvmRegs)['fields'];
/** Segment registers in `struct kvm_sregs`. */
export type SegmentRegister = 'cs' | 'ds' | 'es' | 'fs' | 'gs' | 'ss' | 'tr' | 'ldt';
/** Control registers in `struct kvm_sregs`. */
export type ControlRegister = 'cr0' | 'cr2' | 'cr3' | 'cr4' | 'cr8' | 'efer' | 'apic_base';
type SegmentField = keyof (typeof kvmSegment)['fields'];

/**
 * `struct kvm_regs` by name.
 *
 * @example
 * const registers = vcpu.generalRegisters();
 * console.log(registers.get('rip').toString(16));
 */
export class GeneralRegisters {
  readonly bytes: Uint8Array;
  readonly #view: DataView;

  constructor(bytes: Uint8Array = new Uint8Array(kvmRegs.size)) {
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** The value of a register. */
  get(register: GeneralRegister): bigint {
    return this.#view.getBigUint64(kvmRegs.fields[register][0], true);
  }

  /** Changes a register here; `setGeneralRegisters` of the vCPU takes it. */
  set(register: GeneralRegister, value: bigint | number): void {
    this.#view.setBigUint64(kvmRegs.fields[register][0], BigInt(value), true);
  }

  /** `rip=0x1000 rflags=0x2 rax=0x0 ...`: the registers that help to explain a crash. */
  toString(): string {
    const names = Object.keys(kvmRegs.fields) as GeneralRegister[];
    const first: GeneralRegister[] = ['rip', 'rflags'];
    return [...first, ...names.filter((name) => !first.includes(name))]
      .map((name) => `${name}=0x${this.get(name).toString(16)}`)
      .join(' ');
  }
}

/**
 * `struct kvm_sregs` by name.
 *
 * @example
 * const registers = vcpu.specialRegisters();
 * vcpu.setSpecialRegisters(registers);
 */
export class SpecialRegisters {
  readonly bytes: Uint8Array;
  readonly #view: DataView;

  constructor(bytes: Uint8Array = new Uint8Array(kvmSregs.size)) {
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** The value of a field. */
  get(register: ControlRegister): bigint {
    return this.#view.getBigUint64(kvmSregs.fields[register][0], true);
  }

  /** Changes a field here; `setSpecialRegisters` of the vCPU takes it. */
  set(register: ControlRegister, value: bigint | number): void {
    this.#view.setBigUint64(kvmSregs.fields[register][0], BigInt(value), true);
  }

  /** Sets the named parts of a segment register and leaves the others. */
  setSegment(register: SegmentRegister, parts: Readonly<Partial<Record<SegmentField, number>>>): void {
    const start = kvmSregs.fields[register][0];
    for (const [field, value] of Object.entries(parts)) {
      const [offset, size] = kvmSegment.fields[field as SegmentField];
      if (size === 8) this.#view.setBigUint64(start + offset, BigInt(value), true);
      else if (size === 4) this.#view.setUint32(start + offset, value, true);
      else if (size === 2) this.#view.setUint16(start + offset, value, true);
      else this.#view.setUint8(start + offset, value);
    }
  }

  /** Sets where a descriptor table is: its linear address, and the offset of its last byte. */
  setTable(register: 'gdt' | 'idt', base: number, limit: number): void {
    const start = kvmSregs.fields[register][0];
    this.#view.setBigUint64(start, BigInt(base), true);
    this.#view.setUint16(start + 8, limit, true);
  }
}
