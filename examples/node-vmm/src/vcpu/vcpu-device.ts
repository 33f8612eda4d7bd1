import { GodwitError, type GuestMemory, type MigratableDevice } from '@godwit/core';
import type { KvmVcpu, KvmVm } from '@godwit/linux';
import { Cpuid, Msr, type MsrValue, NestedState, VcpuState, type VcpuStatePart } from '@godwit/linux/kvm';
import type { KvmHardware } from '../machine/kvm-hardware.js';
import { requireVersion, StateReader, StateWriter } from '../state/state-sections.js';
import { counterCorrection, decodeReading, encodeReading, readClocks } from './clock-relation.js';
import { packMsrs, unpackMsrs } from './msr-bytes.js';
import { pagesWrittenByMsrs } from './msr-memory.js';

/**
 * The parts of the state in the order in which they are saved. KVM_GET_MP_STATE comes first since it processes pending start-up events,
 * which changes the local APIC and the registers; KVM_GET_VCPU_EVENTS comes last since other calls may inject or consume an event.
 *
 * Where an element lists several parts, they are alternatives, and the first one that the host's KVM has is saved: KVM_GET_SREGS2 returns
 * more state than KVM_GET_SREGS, KVM_GET_XSAVE2 more than KVM_GET_XSAVE, and KVM_GET_XSAVE more than KVM_GET_FPU.
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
 * The order in which the parts are loaded. The special registers come before the local APIC, since they include the APIC base, which
 * enables it; XCR0 before the XSAVE area, which it enables; the local APIC before the MSRs, whose deadline timer it runs; events after
 * everything that could drop them.
 */
const LOADED_BEFORE_MSRS = ['MPST', 'REGS', 'SRG2', 'SREG', 'XCRS', 'XSV2', 'XSAV', 'FPU ', 'DBGR', 'APIC'];
const LOADED_AFTER_MSRS = ['EVNT'];

const PARTS = new Map<string, VcpuStatePart>([...SAVED.flat(), EVENTS]);
const TAGS = ['CPID', 'TSCF', 'MSRS', 'CLKS', 'TSCO', 'NEST', ...PARTS.keys()];
/** Areas that are longer where the processor has more, such as AMX: a longer one can be loaded if it uses no more. */
const GROWING = ['XSAV', 'XSV2'];

/**
 * MSRs that are written after all others, in this order. When the time-stamp counter is written, KVM computes an offset from
 * IA32_TSC_ADJUST.
 */
const COUNTER_MSRS: readonly number[] = [Msr.tscAdjust, Msr.timeStampCounter];
/** The deadline timer is armed by the counter, once that is right. */
const TIMER_MSRS: readonly number[] = [Msr.tscDeadline];

/** Number of rehearsed loads, of which the median counts: the first one compiles the code, and any may find the processor busy. Odd. */
const REHEARSALS = 5;

/** A distance of minutes on any processor's time-stamp counter: far more than the second within which KVM matches two values. */
const FAR_AWAY = 2n ** 42n;

/** The chipset's clock may be saved this long before vCPU 0's counter, with the guest paused at both. */
const UNSEEN_NS = 1_000_000_000n;

/**
 * The state that KVM keeps of a vCPU, as a device. It is saved and loaded only while the vCPU's thread is parked.
 *
 * A loaded time-stamp counter continues from its value when the guest was paused: it never goes back, and does not count the time in
 * between (the pause clock does). Where this host's KVM takes offsets, vCPU 0's counter stands to the paravirtual clock, which the chipset
 * has set before, as it stood at the source; those of the others follow it. KVM matches the counters of vCPUs that are loaded within a
 * second of each other, so that they stay equal. When a state is loaded again after the guest has run on at the source, vCPU 0, which comes
 * first, ensures that its counter is not matched with those of the first load.
 */
export class VcpuDevice implements MigratableDevice {
  readonly id: string;
  /**
   * Version 2 has the offset of the time-stamp counter (TSCO) and the state of nested virtualization (NEST), version 3 a reading of the
   * paravirtual clock beside vCPU 0's counter (CLKS).
   */
  readonly version = 3;
  readonly minimumVersion = 1;
  readonly #vm: Pick<KvmVm, 'getClock'>;
  readonly #vcpu: KvmVcpu;
  /** vCPU 0, from whose time-stamp counter those of the others differ. */
  readonly #first: KvmVcpu;
  readonly #msrIndices: readonly number[];
  readonly #memory: GuestMemory;
  readonly #offered: Cpuid;
  readonly #parked: () => Promise<void>;
  #loadedMsrs: readonly MsrValue[] = [];
  #loaded = false;
  #expectedLoadMs: number | undefined;

  /**
   * @param vcpu with all the CPU features that this host offers, as `KvmHardware` makes it
   * @param hardware.vm for its paravirtual clock
   * @param hardware.msrIndices the MSRs that are state of the machine's vCPUs
   * @param memory the guest's memory: KVM writes it when some registers are set
   * @param parked resolves when the vCPU's thread has started and is parked; awaited before a load
   */
  constructor(
    vcpu: KvmVcpu,
    { vm, vcpus, msrIndices }: Pick<KvmHardware, 'vm' | 'vcpus' | 'msrIndices'>,
    memory: GuestMemory,
    parked: () => Promise<void>,
  ) {
    this.id = `vcpu${vcpu.id}`;
    this.#vm = vm;
    this.#vcpu = vcpu;
    this.#first = vcpus[0] ?? vcpu;
    this.#msrIndices = msrIndices;
    this.#memory = memory;
    this.#parked = parked;
    // The features that this host offers are read from the vCPU and not with KVM_GET_SUPPORTED_CPUID: PVM cannot hide some features of
    // the processor, and adds them to the CPUID that KVM_SET_CPUID2 has set.
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
    saveSection(writer, 'CLKS', this.#bothClocks());
    saveSection(writer, 'TSCO', this.#counterDifference());
    saveSection(writer, 'NEST', vcpu.nestedState()?.bytes);
    const [tag, part] = EVENTS;
    writer.section(tag, vcpu.get(part));
    yield writer.finish();
  }

  /**
   * Destination: loads the vCPU's own initial state, to measure the time of a load; the first load of a process also takes several
   * times as long as the next. Does nothing once a state was loaded. A rehearsal that fails is ignored: the actual load fails too, with
   * the reason.
   */
  async rehearseLoad(): Promise<void> {
    const took: number[] = [];
    while (took.length < REHEARSALS && !this.#loaded) {
      try {
        const reader = await StateReader.read(this.id, this.save(), TAGS);
        // There is no `await` from here on, so that the actual load cannot come in between.
        if (this.#loaded) return;
        const start = performance.now();
        this.#set(reader);
        took.push(performance.now() - start);
      } catch {
        return;
      } finally {
        if (!this.#loaded) this.#loadedMsrs = [];
      }
    }
    this.#expectedLoadMs = took.sort((a, b) => a - b)[(REHEARSALS - 1) / 2];
  }

  /** The rehearsed time, in milliseconds; undefined without a rehearsal. All vCPUs' states are of one size. */
  expectedLoadMs(): number | undefined {
    return this.#expectedLoadMs;
  }

  /**
   * @throws GodwitError GODWIT_DEVICE_FAILED for bytes that are no such state, GODWIT_UNSUPPORTED when this host lacks a CPU feature, a
   * part of the state, an MSR or a counter frequency that the source had
   */
  async load(state: AsyncIterable<Uint8Array>, version: number): Promise<void> {
    this.#loaded = true;
    await this.#parked();
    if (version < this.minimumVersion || version > this.version) requireVersion(this.id, version, this.version);
    this.#set(await StateReader.read(this.id, state, TAGS));
  }

  loadWrites(): ReturnType<typeof pagesWrittenByMsrs> {
    return pagesWrittenByMsrs(this.#memory, this.#loadedMsrs);
  }

  #set(reader: StateReader): void {
    const cpuid = decodeCpuid(this.id, reader.required('CPID'));
    const msrs = unpackMsrs(this.id, reader.required('MSRS'));
    const tscKhz = new DataView(reader.required('TSCF', 4).buffer).getUint32(0, true);
    const nested = nestedState(this.id, reader.optional('NEST'));
    this.#refuseWhatIsMissing(cpuid, reader, nested);
    this.#vcpu.setCpuid(cpuid);
    // The frequency is set before the state that depends on it.
    if (tscKhz !== 0 && tscKhz !== this.#vcpu.tscKhz()) this.#setTscKhz(tscKhz);
    this.#load(reader, LOADED_BEFORE_MSRS);
    // Stored before the MSRs are set: a load that fails has set some of them.
    this.#loadedMsrs = msrs;
    const isLast = (index: number): boolean => COUNTER_MSRS.includes(index) || TIMER_MSRS.includes(index);
    const ofThese = (indices: readonly number[]) =>
      indices.flatMap((last) => msrs.filter(({ index }) => index === last));
    this.#vcpu.writeMsrs(msrs.filter(({ index }) => !isLast(index)));
    this.#forgetLastCounter(msrs);
    this.#vcpu.writeMsrs(ofThese(COUNTER_MSRS));
    const follows = this.#followClock(reader.optional('CLKS'));
    this.#keepDifference(reader.optional('TSCO'));
    this.#vcpu.writeMsrs(ofThese(TIMER_MSRS));
    if (!follows) this.#refuseTimeGoingBack(msrs);
    // The MSRs of its capabilities come before: KVM checks the state against them.
    if (nested !== undefined && this.#vcpu.nestedStateBytes > 0) this.#vcpu.setNestedState(nested);
    this.#load(reader, LOADED_AFTER_MSRS);
  }

  /** The paravirtual clock beside the counter of vCPU 0; undefined for the others. */
  #bothClocks(): Uint8Array | undefined {
    if (this.#vcpu.id !== this.#first.id) return undefined;
    const reading = readClocks(this.#vm, this.#vcpu);
    return reading && encodeReading(reading);
  }

  /**
   * Sets vCPU 0's counter so that it stands to the paravirtual clock as it stood at the source. The guest has seen neither run on after the
   * chipset was saved, and the clock continues from there: so the counter is not behind what the guest has seen.
   *
   * @returns false where it stays as it is: for another vCPU, without such a reading, where the clock here is not the guest's (it is far
   * behind), and where this host's KVM takes no offset
   */
  #followClock(bytes: Uint8Array | undefined): boolean {
    if (bytes === undefined || this.#vcpu.id !== this.#first.id) return false;
    const there = decodeReading(this.id, bytes);
    const [offset, here] = [this.#vcpu.tscOffset(), readClocks(this.#vm, this.#vcpu)];
    if (offset === undefined || here === undefined || here.clock + UNSEEN_NS < there.clock) return false;
    const wanted = BigInt.asUintN(64, offset + counterCorrection(there, here, this.#vcpu.tscKhz()));
    this.#vcpu.setTscOffset(wanted);
    return this.#vcpu.tscOffset() === wanted;
  }

  /** How far this vCPU's time-stamp counter is ahead of vCPU 0's, as 64 bits; undefined where KVM does not give its offset. */
  #counterDifference(): Uint8Array | undefined {
    const [own, first] = [this.#vcpu.tscOffset(), this.#first.tscOffset()];
    if (own === undefined || first === undefined) return undefined;
    return new Uint8Array(BigInt64Array.of(own - first).buffer);
  }

  /**
   * Sets the counter to its difference from vCPU 0's, which was loaded before. KVM takes a written value that is close to vCPU 0's for the
   * same one, and would lose a difference that the guest has made itself.
   */
  #keepDifference(bytes: Uint8Array | undefined): void {
    const first = this.#first.tscOffset();
    if (bytes === undefined || first === undefined || this.#vcpu.id === this.#first.id) return;
    if (bytes.byteLength !== 8) {
      throw new GodwitError(
        'GODWIT_DEVICE_FAILED',
        `the difference of the time-stamp counter of ${this.id} has ${bytes.byteLength} bytes, not 8`,
      );
    }
    const difference = new DataView(bytes.buffer, bytes.byteOffset).getBigInt64(0, true);
    const wanted = BigInt.asUintN(64, first + difference);
    if (this.#vcpu.tscOffset() === wanted) return;
    this.#vcpu.setTscOffset(wanted);
    if (this.#vcpu.tscOffset() === wanted) return;
    throw new GodwitError(
      'GODWIT_UNSUPPORTED',
      `the time-stamp counter of ${this.id} is ${difference} ahead of vCPU 0's, and this host's KVM keeps no difference (KVM_VCPU_TSC_OFFSET)`,
    );
  }

  /**
   * Ends KVM's matching of counters before a second load. KVM takes a value within a second of the last one, as it counts on, for an
   * attempt to synchronize two vCPUs, and continues the earlier counter (`kvm_synchronize_tsc`, arch/x86/kvm/x86.c). A second load is
   * always that close, and the counter could be behind values that the guest has seen meanwhile. Writing a distant value prevents this.
   */
  #forgetLastCounter(msrs: readonly MsrValue[]): void {
    const saved = msrs.find(({ index }) => index === Msr.timeStampCounter);
    if (this.#vcpu.id !== 0 || saved === undefined) return;
    const value = BigInt.asUintN(64, saved.value + FAR_AWAY);
    this.#vcpu.writeMsrs([{ index: Msr.timeStampCounter, value }]);
  }

  /**
   * Refuses a counter that would go back. Some KVMs (PVM) ignore a write of the counter, since the guest reads the host's own. Others
   * continue vCPU 0's counter, which was saved shortly before this one with the guest stopped: a value that is behind by up to a second
   * was never seen by the guest.
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

  #refuseWhatIsMissing(cpuid: Cpuid, reader: StateReader, nested: NestedState | undefined): void {
    const features = cpuid.missingOn(this.#offered);
    if (features.length > 0) {
      throw new GodwitError(
        'GODWIT_UNSUPPORTED',
        `the guest was told of CPU features that this host's KVM lacks: ${features.join(', ')}`,
      );
    }
    if (nested !== undefined && !nested.isEmpty && this.#vcpu.nestedStateBytes < nested.bytes.byteLength) {
      throw new GodwitError(
        'GODWIT_UNSUPPORTED',
        `the guest of ${this.id} runs guests of its own, and this host's KVM cannot load the state of nested virtualization ` +
          `(${nested.bytes.byteLength} bytes, KVM_SET_NESTED_STATE takes ${this.#vcpu.nestedStateBytes}): end those guests, or load kvm_intel or kvm_amd with nested=1 here`,
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
      if (bytes.byteLength !== size && !(GROWING.includes(tag) && fitted(bytes, size) !== undefined)) {
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
      if (part === undefined || bytes === undefined) continue;
      const area = GROWING.includes(tag) ? fitted(bytes, this.#vcpu.sizeOf(part)) : bytes;
      this.#vcpu.set(part, area ?? bytes);
    }
  }
}

/** Bytes in a length: with zeros behind them, or without the zeros; undefined when something else would be lost. */
function fitted(bytes: Uint8Array, byteLength: number): Uint8Array | undefined {
  if (bytes.subarray(byteLength).some((byte) => byte !== 0)) return undefined;
  const area = new Uint8Array(byteLength);
  area.set(bytes.subarray(0, byteLength));
  return area;
}

function saveSection(writer: StateWriter, tag: string, bytes: Uint8Array | undefined): void {
  if (bytes === undefined) writer.absent(tag);
  else writer.section(tag, bytes);
}

function nestedState(device: string, bytes: Uint8Array | undefined): NestedState | undefined {
  if (bytes === undefined) return undefined;
  try {
    return NestedState.decode(bytes);
  } catch (error) {
    throw new GodwitError('GODWIT_DEVICE_FAILED', `the state of nested virtualization of ${device} cannot be read`, {
      cause: error,
    });
  }
}

function decodeCpuid(device: string, bytes: Uint8Array): Cpuid {
  try {
    return Cpuid.decode(bytes);
  } catch (error) {
    throw new GodwitError('GODWIT_DEVICE_FAILED', `the CPUID of ${device} cannot be read`, { cause: error });
  }
}
