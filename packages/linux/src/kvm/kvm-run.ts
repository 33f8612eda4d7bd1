import { viewOf } from '../libc/index.js';
import { kvmRun } from './kvm-structs.js';

const { fields } = kvmRun;

/**
 * `struct kvm_run`, the page that a vCPU's thread and KVM share. Made for the exit path: reading an exit allocates
 * nothing. Any thread may make its own view of the same address.
 *
 * @example
 * const run = new KvmRun(vcpu.runAddress, vcpu.runBytes); // in the vCPU's thread
 * if (run.exitReason === KvmExit.KVM_EXIT_MMIO) handleMmio(run.mmioAddress, run.mmioData);
 */
export class KvmRun {
  /** The whole mapping: the structure, and after it the data of port I/O. */
  readonly bytes: Uint8Array;
  readonly #words: Uint32Array;
  readonly #view: DataView;

  /** @param address where the vCPU's descriptor is mapped; must stay mapped while the view is used */
  constructor(address: bigint, byteLength: number) {
    this.bytes = viewOf(address, byteLength);
    this.#words = new Uint32Array(this.bytes.buffer, 0, byteLength >>> 2);
    this.#view = new DataView(this.bytes.buffer);
  }

  /**
   * While it is true KVM_RUN completes the I/O of the last exit and returns EINTR without entering the guest. Set it
   * before sending the signal that interrupts KVM_RUN: a signal that comes just before the call would otherwise have no
   * effect.
   */
  set immediateExit(value: boolean) {
    Atomics.store(this.bytes, fields.immediate_exit[0], value ? 1 : 0);
  }

  /** Whether the next KVM_RUN returns at once, with EINTR. */
  get immediateExit(): boolean {
    return Atomics.load(this.bytes, fields.immediate_exit[0]) !== 0;
  }

  /** One of `KvmExit`. */
  get exitReason(): number {
    return this.#words[fields.exit_reason[0] >>> 2] as number;
  }

  /** KVM_EXIT_IO_IN or KVM_EXIT_IO_OUT. */
  get ioDirection(): number {
    return this.bytes[fields['io.direction'][0]] as number;
  }

  /** Bytes of one access: 1, 2 or 4. */
  get ioSize(): number {
    return this.bytes[fields['io.size'][0]] as number;
  }

  /** The port of an exit `KVM_EXIT_IO`. */
  get ioPort(): number {
    return (this.#words[fields['io.port'][0] >>> 2] as number) >>> 16;
  }

  /** Accesses in this exit; more than one for a string instruction. */
  get ioCount(): number {
    return this.#words[fields['io.count'][0] >>> 2] as number;
  }

  /** Where in `bytes` the data of the accesses is. */
  get ioDataOffset(): number {
    return this.#words[fields['io.data_offset'][0] >>> 2] as number;
  }

  /** The guest physical address of an exit `KVM_EXIT_MMIO`. */
  get mmioAddress(): number {
    return Number(this.#view.getBigUint64(fields['mmio.phys_addr'][0], true));
  }

  /** Bytes of an exit `KVM_EXIT_MMIO`: 1 to 8. */
  get mmioLength(): number {
    return this.#words[fields['mmio.len'][0] >>> 2] as number;
  }

  /** Whether an exit `KVM_EXIT_MMIO` is a write. */
  get mmioIsWrite(): boolean {
    return this.bytes[fields['mmio.is_write'][0]] !== 0;
  }

  /** The 8 bytes of an MMIO access. */
  get mmioData(): Uint8Array {
    return this.bytes.subarray(fields['mmio.data'][0], fields['mmio.data'][0] + fields['mmio.data'][1]);
  }

  /** KVM_EXIT_INTERNAL_ERROR: 1 = an instruction that KVM cannot emulate. */
  get internalSuberror(): number {
    return this.#words[fields['internal.suberror'][0] >>> 2] as number;
  }

  /** KVM_EXIT_INTERNAL_ERROR: up to 16 further words, whose meaning depends on the suberror. */
  get internalData(): readonly bigint[] {
    const count = Math.min(this.#words[fields['internal.ndata'][0] >>> 2] as number, 16);
    return Array.from({ length: count }, (_, i) => this.#view.getBigUint64(fields['internal.data'][0] + 8 * i, true));
  }

  /** KVM_EXIT_FAIL_ENTRY */
  get entryFailure(): bigint {
    return this.#view.getBigUint64(fields['fail_entry.hardware_entry_failure_reason'][0], true);
  }

  /** KVM_EXIT_SYSTEM_EVENT: 1 shutdown, 2 reset, 3 crash. */
  get systemEvent(): number {
    return this.#words[fields['system_event.type'][0] >>> 2] as number;
  }
}
