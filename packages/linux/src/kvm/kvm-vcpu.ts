import { GodwitError } from '@godwit/core/errors';
import { closeFd, ioctl, MapFlags, mmap, munmap, tryIoctlOnce } from '../libc/index.js';
import { Cpuid } from './cpuid.js';
import { getAttribute, hasAttribute, type KvmAttribute, setAttribute } from './device-attribute.js';
import { KvmCapability, KvmValue, KvmVcpuRequest } from './kvm-constants.js';
import { KvmRun } from './kvm-run.js';
import { kvmNestedState } from './kvm-structs.js';
import { type MsrValue, readMsrs, writeMsrs } from './msrs.js';
import { NestedState } from './nested-state.js';
import { GeneralRegisters, SpecialRegisters } from './vcpu-registers.js';
import { VcpuState, type VcpuStatePart } from './vcpu-state-part.js';
import { VcpuStatistics } from './vcpu-statistics.js';

const TSC_OFFSET: KvmAttribute = {
  name: 'KVM_VCPU_TSC_OFFSET',
  group: KvmValue.KVM_VCPU_TSC_CTRL,
  attribute: KvmValue.KVM_VCPU_TSC_OFFSET,
};

interface NewVcpu {
  readonly id: number;
  readonly fd: number;
  readonly mapBytes: number;
  readonly checkExtension: (capability: number) => number;
}

/**
 * A vCPU: its descriptor and the `kvm_run` page that is mapped from it.
 *
 * KVM_RUN belongs to one thread, which gets `fd`, `runAddress` and `runBytes` and uses `runVcpu`. All other calls block while that
 * thread is inside KVM_RUN: make them when that thread is stopped.
 *
 * @example
 * const vcpu = vm.createVcpu(0);
 * const registers = vcpu.generalRegisters();
 * registers.set('rip', 0x1000);
 * vcpu.setGeneralRegisters(registers);
 */
export class KvmVcpu {
  readonly id: number;
  readonly fd: number;
  /** Address and size of the mapping of `struct kvm_run`, for another thread. */
  readonly runAddress: bigint;
  readonly runBytes: number;
  readonly run: KvmRun;
  readonly #checkExtension: (capability: number) => number;
  #closed = false;

  /** Use `KvmVm.createVcpu`. */
  constructor({ id, fd, mapBytes, checkExtension }: NewVcpu) {
    this.id = id;
    this.fd = fd;
    this.runBytes = mapBytes;
    this.#checkExtension = checkExtension;
    try {
      this.runAddress = mmap({ byteLength: mapBytes, flags: MapFlags.MAP_SHARED, fd });
    } catch (error) {
      closeFd(fd);
      throw error;
    }
    this.run = new KvmRun(this.runAddress, mapBytes);
  }

  /** Whether this KVM has a piece of state at all. */
  has(part: VcpuStatePart): boolean {
    return part.capability === undefined || this.#checkExtension(part.capability) > 0;
  }

  /** Bytes that `get` returns and `set` takes. */
  sizeOf(part: VcpuStatePart): number {
    if (part.size > 0 || part.capability === undefined) return part.size;
    return this.#checkExtension(part.capability);
  }

  /** Reads a piece of state by its request (KVM_GET_...). Throws `SyscallError`. */
  get(part: VcpuStatePart): Uint8Array {
    const bytes = new Uint8Array(this.sizeOf(part));
    ioctl(this.fd, part.get.request, bytes, part.get.name);
    return bytes;
  }

  /** @throws GodwitError GODWIT_INVALID_ARGUMENT when the bytes are not of the size that this KVM uses */
  set(part: VcpuStatePart, bytes: Uint8Array): void {
    const size = this.sizeOf(part);
    if (bytes.byteLength !== size) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        `${part.name} of a vCPU are ${size} bytes on this KVM, got ${bytes.byteLength}`,
      );
    }
    ioctl(this.fd, part.set.request, bytes, part.set.name);
  }

  /** KVM_GET_REGS. Throws `SyscallError`. */
  generalRegisters(): GeneralRegisters {
    return new GeneralRegisters(this.get(VcpuState.generalRegisters));
  }

  /** KVM_SET_REGS. Throws `SyscallError`. */
  setGeneralRegisters(registers: GeneralRegisters): void {
    this.set(VcpuState.generalRegisters, registers.bytes);
  }

  /** KVM_GET_SREGS. Throws `SyscallError`. */
  specialRegisters(): SpecialRegisters {
    return new SpecialRegisters(this.get(VcpuState.specialRegisters));
  }

  /** KVM_SET_SREGS. Throws `SyscallError`. */
  setSpecialRegisters(registers: SpecialRegisters): void {
    this.set(VcpuState.specialRegisters, registers.bytes);
  }

  /** Makes the vCPU runnable without the start-up interrupt for which all vCPUs but the first wait. */
  makeRunnable(): void {
    const state = new Uint32Array([KvmValue.KVM_MP_STATE_RUNNABLE]);
    this.set(VcpuState.multiprocessorState, new Uint8Array(state.buffer));
  }

  /** The CPUID that the guest sees (KVM_GET_CPUID2). Throws `SyscallError`. */
  cpuid(): Cpuid {
    const request = Cpuid.room();
    ioctl(this.fd, KvmVcpuRequest.KVM_GET_CPUID2, request, 'KVM_GET_CPUID2');
    return Cpuid.decode(request);
  }

  /** Sets the CPUID. To be called before the first KVM_RUN; afterwards KVM refuses any change. */
  setCpuid(cpuid: Cpuid): void {
    ioctl(this.fd, KvmVcpuRequest.KVM_SET_CPUID2, cpuid.encode(), 'KVM_SET_CPUID2');
  }

  /** Reads MSRs; leaves out those that this vCPU does not have. */
  readMsrs(indices: readonly number[]): MsrValue[] {
    return readMsrs(this.fd, indices);
  }

  /** KVM_SET_MSRS. Throws `GODWIT_UNSUPPORTED`, with the register, when KVM refuses one. */
  writeMsrs(values: readonly MsrValue[]): void {
    writeMsrs(this.fd, values);
  }

  /**
   * Opens the counters that KVM keeps of this vCPU; returns undefined before Linux 5.14. Like all calls here, opening waits for a vCPU
   * that is inside KVM_RUN; reading the counters does not.
   */
  statistics(): VcpuStatistics | undefined {
    if (this.#checkExtension(KvmCapability.KVM_CAP_BINARY_STATS_FD) === 0) return undefined;
    return new VcpuStatistics(ioctl(this.fd, KvmVcpuRequest.KVM_GET_STATS_FD, 0, 'KVM_GET_STATS_FD'));
  }

  /** Frequency of the time-stamp counter in kHz, or 0 when this KVM does not report it. */
  tscKhz(): number {
    if (this.#checkExtension(KvmCapability.KVM_CAP_GET_TSC_KHZ) === 0) return 0;
    return ioctl(this.fd, KvmVcpuRequest.KVM_GET_TSC_KHZ, 0, 'KVM_GET_TSC_KHZ');
  }

  /** A frequency other than the host's needs KVM_CAP_TSC_CONTROL; without it KVM answers EINVAL. */
  setTscKhz(khz: number): void {
    ioctl(this.fd, KvmVcpuRequest.KVM_SET_TSC_KHZ, khz, 'KVM_SET_TSC_KHZ');
  }

  /**
   * The value that KVM adds to the host's counter (scaled to the guest's frequency) for the guest's, modulo 2^64; undefined before Linux
   * 5.16. Unlike a write of the counter, a write of the offset is exact, so that differences between vCPUs are kept.
   */
  tscOffset(): bigint | undefined {
    return hasAttribute(this.fd, TSC_OFFSET) ? getAttribute(this.fd, TSC_OFFSET) : undefined;
  }

  /** Throws `SyscallError` where there is no such attribute. */
  setTscOffset(offset: bigint): void {
    setAttribute(this.fd, TSC_OFFSET, offset);
  }

  /** Most bytes of the state of nested virtualization; 0 where this KVM has none. */
  get nestedStateBytes(): number {
    return Math.max(0, this.#checkExtension(KvmCapability.KVM_CAP_NESTED_STATE));
  }

  /** The state of nested virtualization (KVM_GET_NESTED_STATE), without unused bytes; undefined where this KVM has none. */
  nestedState(): NestedState | undefined {
    const most = this.nestedStateBytes;
    if (most === 0) return undefined;
    const bytes = new Uint8Array(Math.max(most, kvmNestedState.size));
    new DataView(bytes.buffer).setUint32(kvmNestedState.fields.size[0], bytes.byteLength, true);
    ioctl(this.fd, KvmVcpuRequest.KVM_GET_NESTED_STATE, bytes, 'KVM_GET_NESTED_STATE');
    return NestedState.decode(bytes);
  }

  /** KVM_SET_NESTED_STATE. Throws `SyscallError`, also for a state of the other vendor's virtualization. */
  setNestedState(state: NestedState): void {
    ioctl(this.fd, KvmVcpuRequest.KVM_SET_NESTED_STATE, state.bytes, 'KVM_SET_NESTED_STATE');
  }

  /** Idempotent. No thread may be in KVM_RUN, and no view of `kvm_run` may be touched afterwards. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    munmap(this.runAddress, this.runBytes);
    closeFd(this.fd);
  }
}

/**
 * KVM_RUN on the calling thread: enters the guest, which blocks the thread until the guest needs something.
 *
 * @returns 0 when there is an exit to handle, else minus errno: -EINTR after a signal or with `immediateExit` set,
 * -EAGAIN when the vCPU waits for a start-up interrupt
 * @example
 * const result = runVcpu(vcpu.fd);
 * if (result === 0 && vcpu.run.exitReason === KvmExit.KVM_EXIT_IO) handlePort(vcpu.run);
 */
export function runVcpu(vcpuFd: number): number {
  return tryIoctlOnce(vcpuFd, KvmVcpuRequest.KVM_RUN, 0);
}
