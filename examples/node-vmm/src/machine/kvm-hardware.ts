import { type DirtyTracker, GodwitError } from '@godwit/core';
import { Kvm, KvmDirtyLogTracker, type KvmVcpu, type KvmVm, type MappedGuestMemory } from '@godwit/linux';
import { type Cpuid, KvmCapability } from '@godwit/linux/kvm';
import { KVM_IDENTITY_MAP_ADDRESS, KVM_TSS_ADDRESS } from './memory-map.js';
import { WriteFaults } from './write-faults.js';

/**
 * The KVM objects of a machine: the VM with its chips, one memory slot for each RAM block (the slot's number is the block's index), and
 * the vCPUs. `close` frees all of them.
 */
export class KvmHardware {
  readonly vm: KvmVm;
  readonly vcpus: readonly KvmVcpu[];
  readonly msrIndices: readonly number[];
  readonly #memory: MappedGuestMemory;
  /** What each vCPU dirties, where this host tells. */
  readonly writeFaults: WriteFaults | undefined;

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
      this.writeFaults = WriteFaults.of(made);
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

  /** Frees everything. No thread may be in KVM_RUN; to be called before the memory is unmapped. */
  close(): void {
    this.writeFaults?.close();
    for (const vcpu of this.vcpus) vcpu.close();
    this.vm.close();
  }

  #setRegions(logDirty: boolean): void {
    this.#memory.blocks.forEach(({ guestPhysicalAddress, byteLength, hostAddress }, slot) => {
      this.vm.setMemoryRegion({ slot, guestPhysicalAddress, byteLength, hostAddress, logDirty });
    });
  }
}
