import { GodwitError, type GuestMemory, type MigratableDevice } from '@godwit/core';
import { Cpuid, type KvmVcpu, Msr, type MsrValue, VcpuState, type VcpuStatePart } from '@godwit/linux';
import { requireVersion, StateReader, StateWriter } from '../state/state-sections.js';
import { pagesWrittenByMsrs } from './msr-memory.js';

/**
 * Pieces of state in the order in which they are saved. KVM_GET_MP_STATE comes first because it makes pending
 * start-up events happen, which changes the local APIC and the registers; KVM_GET_VCPU_EVENTS comes last because
 * other calls may inject or consume an event.
 *
 * Of alternatives, the first that the host has is saved: KVM_GET_SREGS2 knows more than KVM_GET_SREGS, XSAVE2 more
 * than XSAVE, and that more than the FPU alone.
 */
const SAVED: readonly (readonly (readonly [tag: string, part: VcpuStatePart])[])[] = [
  [['MPST', VcpuState.multiprocessorState]],
  [['REGS', VcpuState.generalRegisters]],
  [
    ['SRG2', VcpuState.specialRegisters2],
    ['SREG', VcpuState.specialRegisters],
  ],
  [
    ['XSV2', VcpuState.xsave2],
    ['XSAV', VcpuState.xsave],
    ['FPU ', VcpuState.fpu],
  ],
  [['XCRS', VcpuState.extendedControlRegisters]],
  [['DBGR', VcpuState.debugRegisters]],
  [['APIC', VcpuState.localApic]],
];
const EVENTS = ['EVNT', VcpuState.events] as const;

/**
 * The order in which they are loaded. The special registers come before the local APIC, because the APIC base address
 * is among them and turns it on; XCR0 before the XSAVE area, which it enables; the local APIC before the MSRs, whose
 * deadline timer it runs; events after everything that could drop them.
 */
const LOADED_BEFORE_MSRS = ['MPST', 'REGS', 'SRG2', 'SREG', 'XCRS', 'XSV2', 'XSAV', 'FPU ', 'DBGR', 'APIC'];
const LOADED_AFTER_MSRS = ['EVNT'];

const PARTS = new Map<string, VcpuStatePart>([...SAVED.flat(), EVENTS]);
const TAGS = ['CPID', 'TSCF', 'MSRS', ...PARTS.keys()];
const MSR_BYTES = 12;

/**
 * Written after all others, in this order. Writing the time-stamp counter makes KVM compute an offset that
 * IA32_TSC_ADJUST has to be there for, and the deadline timer is armed against the counter.
 */
const LAST_MSRS: readonly number[] = [Msr.tscAdjust, Msr.timeStampCounter, Msr.tscDeadline];

/** Minutes of any processor's time-stamp counter: far more than the second in which KVM matches two values. */
const FAR_AWAY = 2n ** 42n;

/**
 * A vCPU as a device that moves: everything that KVM keeps of it. Only while its thread is parked.
 *
 * The time-stamp counter goes on from its value at the save when it is loaded: it never goes back, and it does not count
 * the time in flight (that is the pause clock's business). KVM matches the counters of vCPUs that are loaded within a
 * second of each other, so they stay together. State may be loaded again, of a guest that has run on since: vCPU 0, which
 * comes first, sees to it that its counter is not matched with the ones of the load before.
 */
export class VcpuDevice implements MigratableDevice {
  readonly id: string;
  readonly version = 1;
  readonly #vcpu: KvmVcpu;
  readonly #msrIndices: readonly number[];
  readonly #memory: GuestMemory;
  readonly #offered: Cpuid;
  readonly #parked: () => Promise<void>;
  #loadedMsrs: readonly MsrValue[] = [];

  /**
   * @param vcpu with all the CPU features that this host offers, as `KvmHardware` makes it
   * @param memory the guest's: some registers make KVM write it
   * @param parked resolves when the vCPU's thread is there and parked: awaited before anything is loaded
   */
  constructor(vcpu: KvmVcpu, msrIndices: readonly number[], memory: GuestMemory, parked: () => Promise<void>) {
    this.id = `vcpu${vcpu.id}`;
    this.#vcpu = vcpu;
    this.#msrIndices = msrIndices;
    this.#memory = memory;
    this.#parked = parked;
    // Not KVM_GET_SUPPORTED_CPUID: a KVM that cannot hide features (PVM) adds to what it was told.
    this.#offered = vcpu.cpuid();
  }

  async *save(): AsyncIterable<Uint8Array> {
    const vcpu = this.#vcpu;
    const writer = new StateWriter();
    for (const alternatives of SAVED) {
      for (const [tag, part] of alternatives) {
        if (!vcpu.has(part)) {
          writer.absent(tag);
          continue;
        }
        writer.section(tag, vcpu.get(part));
        break;
      }
    }
    writer.section('CPID', vcpu.cpuid().encode());
    writer.section('TSCF', new Uint8Array(Uint32Array.of(vcpu.tscKhz()).buffer));
    writer.section('MSRS', packMsrs(vcpu.readMsrs(this.#msrIndices)));
    const [tag, part] = EVENTS;
    writer.section(tag, vcpu.get(part));
    yield writer.finish();
  }

  /**
   * @throws GodwitError GODWIT_DEVICE_FAILED for bytes that are no such state, GODWIT_UNSUPPORTED when this host lacks
   * something that the source had: a CPU feature, a piece of state, an MSR, a counter frequency
   */
  async load(state: AsyncIterable<Uint8Array>, version: number): Promise<void> {
    await this.#parked();
    requireVersion(this.id, version, this.version);
    const reader = await StateReader.read(this.id, state, TAGS);
    const cpuid = decodeCpuid(this.id, reader.required('CPID'));
    const msrs = unpackMsrs(this.id, reader.required('MSRS'));
    const tscKhz = new DataView(reader.required('TSCF', 4).buffer).getUint32(0, true);
    this.#refuseWhatIsMissing(cpuid, reader);
    this.#vcpu.setCpuid(cpuid);
    // Before anything that counts in it.
    if (tscKhz !== 0 && tscKhz !== this.#vcpu.tscKhz()) this.#setTscKhz(tscKhz);
    this.#load(reader, LOADED_BEFORE_MSRS);
    // Before they are set: a load that fails half-way has written some.
    this.#loadedMsrs = msrs;
    this.#vcpu.writeMsrs(msrs.filter(({ index }) => !LAST_MSRS.includes(index)));
    this.#forgetLastCounter(msrs);
    this.#vcpu.writeMsrs(LAST_MSRS.flatMap((last) => msrs.filter(({ index }) => index === last)));
    this.#refuseTimeGoingBack(msrs);
    this.#load(reader, LOADED_AFTER_MSRS);
  }

  loadWrites(): ReturnType<typeof pagesWrittenByMsrs> {
    return pagesWrittenByMsrs(this.#memory, this.#loadedMsrs);
  }

  /**
   * KVM takes a value within a second of what the last one has become for an attempt to synchronize two vCPUs, and lets the
   * counter go on from the earlier one (`kvm_synchronize_tsc`, arch/x86/kvm/x86.c). A second load is always that close, and
   * the counter could be behind what the guest has seen meanwhile. A value in between that is far away ends the matching.
   */
  #forgetLastCounter(msrs: readonly MsrValue[]): void {
    const saved = msrs.find(({ index }) => index === Msr.timeStampCounter);
    if (this.#vcpu.id !== 0 || saved === undefined) return;
    const value = BigInt.asUintN(64, saved.value + FAR_AWAY);
    this.#vcpu.writeMsrs([{ index: Msr.timeStampCounter, value }]);
  }

  /**
   * Some KVMs (PVM) take a write of the counter and ignore it, because the guest reads the host's own. Others go on from vCPU
   * 0's, which was saved a moment before this one's with the guest stopped: up to a second, what is missing was never seen.
   */
  #refuseTimeGoingBack(msrs: readonly MsrValue[]): void {
    const saved = msrs.find(({ index }) => index === Msr.timeStampCounter);
    const [now] = this.#vcpu.readMsrs([Msr.timeStampCounter]);
    const unseen = this.#vcpu.id === 0 ? 0n : BigInt(this.#vcpu.tscKhz()) * 1000n;
    if (saved === undefined || now === undefined || now.value + unseen >= saved.value) return;
    throw new GodwitError(
      'GODWIT_UNSUPPORTED',
      `the time-stamp counter of ${this.id} would go back from ${saved.value} to ${now.value}: this host's KVM does not set it`,
    );
  }

  #refuseWhatIsMissing(cpuid: Cpuid, reader: StateReader): void {
    const features = cpuid.missingOn(this.#offered);
    if (features.length > 0) {
      throw new GodwitError(
        'GODWIT_UNSUPPORTED',
        `the guest was told of CPU features that this host's KVM lacks: ${features.join(', ')}`,
      );
    }
    for (const alternatives of [...SAVED, [EVENTS]]) {
      if (alternatives.some(([tag]) => reader.optional(tag) !== undefined)) continue;
      for (const [tag] of alternatives) reader.requireMention(tag);
    }
    for (const [tag, part] of PARTS) {
      const bytes = reader.optional(tag);
      if (bytes === undefined) continue;
      if (!this.#vcpu.has(part)) {
        throw new GodwitError(
          'GODWIT_UNSUPPORTED',
          `the source saved the ${part.name} of ${this.id}, which this host's KVM does not have (${part.set.name})`,
        );
      }
      const size = this.#vcpu.sizeOf(part);
      if (bytes.byteLength !== size) {
        throw new GodwitError(
          'GODWIT_UNSUPPORTED',
          `the ${part.name} of ${this.id} have ${bytes.byteLength} bytes at the source and ${size} on this host`,
        );
      }
    }
  }

  #setTscKhz(khz: number): void {
    try {
      this.#vcpu.setTscKhz(khz);
    } catch (error) {
      throw new GodwitError(
        'GODWIT_UNSUPPORTED',
        `the guest's time-stamp counter runs at ${khz} kHz, this host's at ${this.#vcpu.tscKhz()} and KVM cannot scale it`,
        { cause: error },
      );
    }
  }

  #load(reader: StateReader, tags: readonly string[]): void {
    for (const tag of tags) {
      const part = PARTS.get(tag);
      const bytes = reader.optional(tag);
      if (part !== undefined && bytes !== undefined) this.#vcpu.set(part, bytes);
    }
  }
}

function decodeCpuid(device: string, bytes: Uint8Array): Cpuid {
  try {
    return Cpuid.decode(bytes);
  } catch (error) {
    throw new GodwitError('GODWIT_DEVICE_FAILED', `the CPUID of ${device} cannot be read`, { cause: error });
  }
}

/** u32 index, u64 value each. */
function packMsrs(values: readonly MsrValue[]): Uint8Array {
  const bytes = new Uint8Array(values.length * MSR_BYTES);
  const view = new DataView(bytes.buffer);
  values.forEach(({ index, value }, i) => {
    view.setUint32(i * MSR_BYTES, index, true);
    view.setBigUint64(i * MSR_BYTES + 4, value, true);
  });
  return bytes;
}

function unpackMsrs(device: string, bytes: Uint8Array): MsrValue[] {
  if (bytes.byteLength % MSR_BYTES !== 0) {
    throw new GodwitError(
      'GODWIT_DEVICE_FAILED',
      `the MSRs of ${device} are ${bytes.byteLength} bytes, not a multiple of ${MSR_BYTES}`,
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: bytes.byteLength / MSR_BYTES }, (_, i) => ({
    index: view.getUint32(i * MSR_BYTES, true),
    value: view.getBigUint64(i * MSR_BYTES + 4, true),
  }));
}
