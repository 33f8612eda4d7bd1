/** The state of a software guest outside guest memory, as bytes with a version: the counterpart of vCPU registers. */

/** The state of one vCPU. Counts, exact to 2^53. */
export interface SoftwareVcpuState {
  /** Index, among the owned pages, of the page to be visited next. */
  index: number;
  /** Page writes so far. */
  writes: number;
  /** Table entries summed so far in this round of the audit. */
  auditCursor: number;
  auditSum: number;
}

export interface SoftwareGuestState {
  started: boolean;
  readonly vcpus: readonly SoftwareVcpuState[];
}

/** Version of the bytes, for the device's `version`. */
export const SOFTWARE_GUEST_STATE_VERSION = 1;

const MAGIC = 0x5357_4447;
const HEADER_BYTES = 16;
const VCPU_BYTES = 32;
const MAXIMUM_VCPUS = 8;

export function initialSoftwareGuestState(vcpus: number): SoftwareGuestState {
  return {
    started: false,
    vcpus: Array.from({ length: vcpus }, () => ({ index: 0, writes: 0, auditCursor: 0, auditSum: 0 })),
  };
}

/** u32 "GDWS", u32 version, u32 vCPUs, u32 started; per vCPU four u64: index, writes, audit cursor, audit sum. */
export function encodeSoftwareGuestState(state: SoftwareGuestState): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + state.vcpus.length * VCPU_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint32(4, SOFTWARE_GUEST_STATE_VERSION, true);
  view.setUint32(8, state.vcpus.length, true);
  view.setUint32(12, state.started ? 1 : 0, true);
  state.vcpus.forEach((vcpu, number) => {
    const at = HEADER_BYTES + number * VCPU_BYTES;
    view.setBigUint64(at, BigInt(vcpu.index), true);
    view.setBigUint64(at + 8, BigInt(vcpu.writes), true);
    view.setBigUint64(at + 16, BigInt(vcpu.auditCursor), true);
    view.setBigUint64(at + 24, BigInt(vcpu.auditSum), true);
  });
  return bytes;
}

/** @throws RangeError when the bytes are not a state, or of another version. */
export function decodeSoftwareGuestState(bytes: Uint8Array): SoftwareGuestState {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.byteLength < HEADER_BYTES || view.getUint32(0, true) !== MAGIC) {
    throw new RangeError('not the state of a software guest');
  }
  const version = view.getUint32(4, true);
  if (version !== SOFTWARE_GUEST_STATE_VERSION) {
    throw new RangeError(`software guest state of version ${version}, not ${SOFTWARE_GUEST_STATE_VERSION}`);
  }
  const vcpus = view.getUint32(8, true);
  if (vcpus < 1 || vcpus > MAXIMUM_VCPUS || bytes.byteLength !== HEADER_BYTES + vcpus * VCPU_BYTES) {
    throw new RangeError(`software guest state of ${vcpus} vCPUs in ${bytes.byteLength} bytes`);
  }
  return {
    started: view.getUint32(12, true) !== 0,
    vcpus: Array.from({ length: vcpus }, (_, number) => {
      const field = (index: number): number =>
        Number(view.getBigUint64(HEADER_BYTES + number * VCPU_BYTES + index * 8, true));
      return { index: field(0), writes: field(1), auditCursor: field(2), auditSum: field(3) };
    }),
  };
}
