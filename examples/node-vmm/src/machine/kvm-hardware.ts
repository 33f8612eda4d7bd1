import { type DirtyTracker, GodwitError } from '@godwit/core';
import {
  type Cpuid,
  Kvm,
  KvmCapability,
  KvmDirtyLogTracker,
  type KvmVcpu,
  type KvmVm,
  type MappedGuestMemory,
  type VcpuStatistics,
} from '@godwit/linux';
import { KVM_IDENTITY_MAP_ADDRESS, KVM_TSS_ADDRESS } from './memory-map.js';

/**
 * The KVM objects of a machine: the VM with its chips, one memory slot for each RAM block (the slot's number is the block's index), and
 * the vCPUs. `close` frees all of them.
 */
export class KvmHardware {
  readonly vm: KvmVm;
  readonly vcpus: readonly KvmVcpu[];
  readonly msrIndices: readonly number[];
  readonly #memory: MappedGuestMemory;
  readonly #statistics: (VcpuStatistics | undefined)[];
  readonly #seen: number[];

  constructor(memory: MappedGuestMemory, vcpus: number) {
    this.#memory = memory;
    const made: KvmVcpu[] = [];
    let cpuid: Cpuid;
    const kvm = Kvm.open();
    try {
      const most = kvm.checkExtension(KvmCapability.KVM_CAP_MAX_VCPUS);
      if (vcpus > most)
        throw new GodwitError('GODWIT_UNSUPPORTED', `this host's KVM allows ${most} vCPUs, not ${vcpus}`);
      this.msrIndices = kvm.msrIndices();
      cpuid = kvm.supportedCpuid();
      this.vm = kvm.createVm();
    } finally {
      kvm.close();
    }
    this.vcpus = made;
    const statistics: (VcpuStatistics | undefined)[] = [];
    this.#statistics = statistics;
    this.#seen = Array.from({ length: vcpus }, () => 0);
    try {
      this.vm.setIntelPages(KVM_TSS_ADDRESS, KVM_IDENTITY_MAP_ADDRESS);
      this.vm.createIrqchip();
      this.vm.createPit2();
      this.#setRegions(false);
      for (let i = 0; i < vcpus; i++) {
        const vcpu = this.vm.createVcpu(i);
        made.push(vcpu);
        vcpu.setCpuid(cpuid.forVcpu(i));
      }
      // While a vCPU runs, KVM_GET_STATS_FD would wait for it.
      for (const vcpu of made) statistics.push(vcpu.statistics());
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Makes the tracker of KVM's dirty log over all RAM. Logging is on only from its `start` to its `stop`. */
  dirtyLog(): DirtyTracker {
    const { pageSize, blocks } = this.#memory;
    return new KvmDirtyLogTracker({
      vmFd: this.vm.fd,
      slots: blocks.map(({ byteLength }, index) => ({
        slot: index,
        blockIndex: index,
        firstPage: 0,
        pageCount: byteLength / pageSize,
      })),
      setLogging: (on) => this.#setRegions(on),
    });
  }

  /** Page faults of each vCPU that KVM has handled since the last call; zeros where KVM does not count them. */
  faults(): readonly number[] {
    return this.#statistics.map((statistics, vcpu) => {
      const count = statistics?.read('pf_fixed') ?? 0;
      const before = this.#seen[vcpu] as number;
      this.#seen[vcpu] = count;
      return count - before;
    });
  }

  /** Frees everything. No thread may be in KVM_RUN; to be called before the memory is unmapped. */
  close(): void {
    for (const statistics of this.#statistics.splice(0)) statistics?.close();
    for (const vcpu of this.vcpus) vcpu.close();
    this.vm.close();
  }

  #setRegions(logDirty: boolean): void {
    this.#memory.blocks.forEach(({ guestPhysicalAddress, byteLength, hostAddress }, slot) => {
      this.vm.setMemoryRegion({ slot, guestPhysicalAddress, byteLength, hostAddress, logDirty });
    });
  }
}
