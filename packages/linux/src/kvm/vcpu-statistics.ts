import { readSync } from 'node:fs';
import { closeFd } from '../libc/index.js';
import { kvmStatsDescriptor, kvmStatsHeader } from './kvm-structs.js';

const { fields: header } = kvmStatsHeader;
const { fields: descriptor } = kvmStatsDescriptor;
const VALUE_BYTES = 8;

/**
 * The counters of a vCPU that KVM keeps by itself: page faults, exits by kind, and others, named as in the kernel's
 * `struct kvm_vcpu_stat`. Documentation/virt/kvm/api.rst, 4.133, describes the file. It may be read while the vCPU runs.
 *
 * @example
 * const statistics = vcpu.statistics();
 * statistics?.read('pf_fixed'); // page faults that KVM has resolved
 */
export class VcpuStatistics {
  readonly #fd: number;
  readonly #offsets = new Map<string, number>();
  readonly #value = new BigUint64Array(1);
  #closed = false;

  /** Use `KvmVcpu.statistics`. The object owns the descriptor from then on. */
  constructor(fd: number) {
    this.#fd = fd;
    try {
      this.#readDescriptors();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** The kernel's names of the statistics. */
  get names(): readonly string[] {
    return [...this.#offsets.keys()];
  }

  /** The value of a counter since the vCPU was made, exact to 2^53; undefined when this kernel does not have it. */
  read(name: string): number | undefined {
    const offset = this.#offsets.get(name);
    if (offset === undefined) return undefined;
    readSync(this.#fd, this.#value, 0, VALUE_BYTES, offset);
    return Number(this.#value[0]);
  }

  /** Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeFd(this.#fd);
  }

  #readDescriptors(): void {
    const head = this.#bytes(kvmStatsHeader.size, 0);
    const nameBytes = head.getUint32(header.name_size[0], true);
    const first = head.getUint32(header.desc_offset[0], true);
    const data = head.getUint32(header.data_offset[0], true);
    const each = kvmStatsDescriptor.size + nameBytes;
    const all = this.#bytes(each * head.getUint32(header.num_desc[0], true), first);
    for (let at = 0; at < all.byteLength; at += each) {
      // Histograms, which have more than one value, are left out.
      if (all.getUint16(at + descriptor.size[0], true) !== 1) continue;
      const name = Buffer.from(all.buffer, at + kvmStatsDescriptor.size, nameBytes).toString('latin1');
      this.#offsets.set(name.slice(0, name.indexOf('\0')), data + all.getUint32(at + descriptor.offset[0], true));
    }
  }

  #bytes(length: number, position: number): DataView {
    const bytes = new Uint8Array(length);
    readSync(this.#fd, bytes, 0, length, position);
    return new DataView(bytes.buffer);
  }
}
