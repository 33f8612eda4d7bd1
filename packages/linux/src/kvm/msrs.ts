import { GodwitError } from '@godwit/core/errors';
import { ioctl } from '../libc/index.js';
import { KvmVcpuRequest } from './kvm-constants.js';
import { kvmMsrEntry, kvmMsrs } from './kvm-structs.js';
import { msrName } from './msr-names.js';

/** Most entries of one KVM_GET_MSRS or KVM_SET_MSRS (MAX_IO_MSRS, arch/x86/kvm/x86.c). */
const MAX_ENTRIES = 256;

/** A model-specific register and its value. */
export interface MsrValue {
  readonly index: number;
  readonly value: bigint;
}

/** Numbers from asm/msr-index.h. */
export const Msr = {
  timeStampCounter: 0x10,
  tscAdjust: 0x3b,
  tscDeadline: 0x6e0,
} as const;

const MTRR_CAPABILITIES = 0xfe;
const MTRR_FIXED = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f, 0x2ff];
const MTRR_VARIABLE = 0x200;
const MACHINE_CHECK_CAPABILITIES = 0x179;
const MACHINE_CHECK_BANK = 0x400;
const MACHINE_CHECK_CONTROL_2 = 0x280;
/** Capabilities: the banks raise interrupts for corrected errors, and so have a second control register. */
const CORRECTED_ERRORS = 1n << 10n;

/**
 * All MSRs that hold state of a vCPU: those that KVM lists, those of features, and those that it has and does not list, since it counts
 * on a VMM to know them: memory types (MTRR), and the banks of machine checks. An MSR that this vCPU's CPUID does not have is left out.
 *
 * @param listed of `Kvm.msrIndices`
 * @example
 * const state = readMsrs(vcpu.fd, guestMsrs(vcpu.fd, kvm.msrIndices()));
 */
export function guestMsrs(vcpuFd: number, listed: readonly number[]): readonly number[] {
  const capabilities = readMsrs(vcpuFd, [MTRR_CAPABILITIES, MACHINE_CHECK_CAPABILITIES]);
  const of = (index: number): bigint | undefined => capabilities.find((msr) => msr.index === index)?.value;
  const range = (first: number, count: number): number[] => Array.from({ length: count }, (_, i) => first + i);
  const memoryTypes = of(MTRR_CAPABILITIES);
  const machineChecks = of(MACHINE_CHECK_CAPABILITIES) ?? 0n;
  const banks = Number(machineChecks & 0xffn);
  const all = [
    ...listed,
    ...(memoryTypes === undefined ? [] : [...range(MTRR_VARIABLE, 2 * Number(memoryTypes & 0xffn)), ...MTRR_FIXED]),
    ...range(MACHINE_CHECK_BANK, 4 * banks),
    ...((machineChecks & CORRECTED_ERRORS) === 0n ? [] : range(MACHINE_CHECK_CONTROL_2, banks)),
  ];
  return readMsrs(vcpuFd, [...new Set(all)]).map(({ index }) => index);
}

/**
 * Reads many MSRs. KVM_GET_MSRS stops at the first MSR that it cannot read, and returns the number that it has read;
 * such an MSR is left out, and reading goes on after it. Most KVMs list an MSR or two that this vCPU's CPUID does not
 * have.
 *
 * @example
 * const values = readMsrs(vcpu.fd, kvm.msrIndices());
 */
export function readMsrs(vcpuFd: number, indices: readonly number[]): MsrValue[] {
  const values: MsrValue[] = [];
  let at = 0;
  while (at < indices.length) {
    const batch = pack(indices.slice(at, at + MAX_ENTRIES).map((index) => ({ index, value: 0n })));
    const done = ioctl(vcpuFd, KvmVcpuRequest.KVM_GET_MSRS, batch, 'KVM_GET_MSRS');
    unpack(batch, done, values);
    // The MSR that stopped the call, if any, is skipped.
    const whole = Math.min(MAX_ENTRIES, indices.length - at);
    at += done < whole ? done + 1 : done;
  }
  return values;
}

/**
 * Writes MSRs in the given order. KVM_SET_MSRS stops at the first MSR that it refuses; one that already has the value
 * is skipped (some can be read but not written), any other is an error.
 *
 * @throws GodwitError GODWIT_UNSUPPORTED naming the MSR and both values
 * @example
 * writeMsrs(vcpu.fd, readMsrs(other.fd, indices));
 */
export function writeMsrs(vcpuFd: number, values: readonly MsrValue[]): void {
  let at = 0;
  while (at < values.length) {
    const batch = values.slice(at, at + MAX_ENTRIES);
    const done = ioctl(vcpuFd, KvmVcpuRequest.KVM_SET_MSRS, pack(batch), 'KVM_SET_MSRS');
    at += done;
    if (done === batch.length) continue;
    const refused = batch[done] as MsrValue;
    const [present] = readMsrs(vcpuFd, [refused.index]);
    if (present?.value !== refused.value) {
      const has = present === undefined ? 'has no such MSR' : `has 0x${present.value.toString(16)}`;
      throw new GodwitError(
        'GODWIT_UNSUPPORTED',
        `KVM refuses to set MSR ${msrName(refused.index)} to 0x${refused.value.toString(16)}; this vCPU ${has}`,
      );
    }
    at++;
  }
}

function pack(values: readonly MsrValue[]): Uint8Array {
  const bytes = new Uint8Array(kvmMsrs.size + values.length * kvmMsrEntry.size);
  const view = new DataView(bytes.buffer);
  view.setUint32(kvmMsrs.fields.nmsrs[0], values.length, true);
  values.forEach(({ index, value }, i) => {
    const entry = kvmMsrs.size + i * kvmMsrEntry.size;
    view.setUint32(entry + kvmMsrEntry.fields.index[0], index, true);
    view.setBigUint64(entry + kvmMsrEntry.fields.data[0], value, true);
  });
  return bytes;
}

function unpack(bytes: Uint8Array, count: number, into: MsrValue[]): void {
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < count; i++) {
    const entry = kvmMsrs.size + i * kvmMsrEntry.size;
    into.push({
      index: view.getUint32(entry + kvmMsrEntry.fields.index[0], true),
      value: view.getBigUint64(entry + kvmMsrEntry.fields.data[0], true),
    });
  }
}
