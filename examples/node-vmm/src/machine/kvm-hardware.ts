import { type DirtyTracker, GodwitError } from '@godwit/core';
import {
  type DirtyRings,
  Kvm,
  KvmDirtyLogTracker,
  KvmDirtyRingTracker,
  type KvmVcpu,
  type KvmVm,
  type MappedGuestMemory,
} from '@godwit/linux';
import { type Cpuid, type CpuModel, cpuidOfModel, guestMsrs, KvmCapability } from '@godwit/linux/kvm';
import type { MachineBoot } from './machine-config.js';
import { KVM_IDENTITY_MAP_ADDRESS, KVM_TSS_ADDRESS } from './memory-map.js';
import { WriteFaults } from './write-faults.js';

/** Leaf 1, ecx: there is a hypervisor; the local APIC's timer compares with the time-stamp counter. */
const HYPERVISOR = 2 ** 31;
const TSC_DEADLINE_TIMER = 2 ** 24;

/** The choices for the KVM objects of a machine. */
export interface HardwareChoice {
  readonly vcpus: number;
  /** Entries of each vCPU's dirty ring, or true for as many as KVM allows; false: KVM keeps a dirty log. */
  readonly dirtyRing: number | boolean;
  /** What the machine is booted from: the CPUID of a Linux has two more features (`linuxCpuid`). */
  readonly boot?: MachineBoot | undefined;
  /** Default `host`, also for a guest that arrives, whose own CPUID is loaded with its vCPUs. */
  readonly cpu?: CpuModel | undefined;
}

/** The tracker of the vCPUs' writes, and what belongs to it. */
export interface KvmWrites {
  readonly tracker: DirtyTracker;
  /** Memory for the vCPU threads' calls to the thread that reaps: see `DirtyRingCalls`. Absent without rings. */
  readonly ringCalls?: SharedArrayBuffer;
  /** How much each vCPU has dirtied since the last call, where this host reports it: `MigratableVm.vcpuWrites`. */
  readonly ofVcpus?: () => readonly number[];
}

/**
 * The KVM objects of a machine: the VM with its chips, one memory slot for each RAM block (the slot's number is the block's index), and
 * the vCPUs. `close` frees all of them.
 */
export class KvmHardware {
  readonly vm: KvmVm;
  readonly vcpus: readonly KvmVcpu[];
  readonly msrIndices: readonly number[];
  readonly #memory: MappedGuestMemory;
  readonly #writeFaults: WriteFaults | undefined;
  readonly #rings: DirtyRings | undefined;

  /** @throws GodwitError GODWIT_UNSUPPORTED when this host's KVM does not have the vCPUs or the CPU model */
  constructor(memory: MappedGuestMemory, { vcpus, dirtyRing, boot, cpu = 'host' }: HardwareChoice) {
    this.#memory = memory;
    const made: KvmVcpu[] = [];
    let cpuid: Cpuid;
    let listedMsrs: readonly number[];
    const kvm = Kvm.open();
    try {
      const most = kvm.checkExtension(KvmCapability.KVM_CAP_MAX_VCPUS);
      if (vcpus > most)
        throw new GodwitError('GODWIT_UNSUPPORTED', `this host's KVM allows ${most} vCPUs, not ${vcpus}`);
      listedMsrs = kvm.msrIndices();
      kvm.allowAmx();
      cpuid = cpuidOfModel(cpu, boot === 'linux' || cpu !== 'host' ? linuxCpuid(kvm) : kvm.supportedCpuid());
      this.vm = kvm.createVm();
    } finally {
      kvm.close();
    }
    this.vcpus = made;
    try {
      if (dirtyRing !== false) this.#rings = this.vm.enableDirtyRings(dirtyRing === true ? undefined : dirtyRing);
      this.vm.setIntelPages(KVM_TSS_ADDRESS, KVM_IDENTITY_MAP_ADDRESS);
      this.vm.reportAllEvents();
      this.vm.createIrqchip();
      this.vm.createPit2();
      this.#setRegions(false);
      for (let i = 0; i < vcpus; i++) {
        const vcpu = this.vm.createVcpu(i);
        made.push(vcpu);
        vcpu.setCpuid(cpuid.forVcpu(i));
      }
      this.msrIndices = guestMsrs((made[0] as KvmVcpu).fd, listedMsrs);
      if (this.#rings === undefined) this.#writeFaults = WriteFaults.of(made);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Makes the tracker of the vCPUs' writes to RAM. Logging is on only from its `start` to its `stop`. */
  writes(): KvmWrites {
    const { pageSize, blocks } = this.#memory;
    const slots = blocks.map(({ byteLength }, index) => ({
      ...{ slot: index, blockIndex: index },
      ...{ firstPage: 0, pageCount: byteLength / pageSize },
    }));
    const log = { vmFd: this.vm.fd, slots, setLogging: (on: boolean) => this.#setRegions(on) };
    const rings = this.#rings;
    if (rings !== undefined) {
      const tracker = new KvmDirtyRingTracker({ ...log, rings, vcpuFds: this.vcpus.map(({ fd }) => fd) });
      return { tracker, ringCalls: tracker.calls.storage, ofVcpus: sinceLast(() => tracker.logged()) };
    }
    const faults = this.#writeFaults;
    return {
      tracker: new KvmDirtyLogTracker(log),
      ...(faults === undefined ? {} : { ofVcpus: () => faults.sinceLast() }),
    };
  }

  /** Frees everything. No thread may be in KVM_RUN; to be called before the memory is unmapped. */
  close(): void {
    this.#writeFaults?.close();
    for (const vcpu of this.vcpus) vcpu.close();
    this.vm.close();
  }

  #setRegions(logDirty: boolean): void {
    this.#memory.blocks.forEach(({ guestPhysicalAddress, byteLength, hostAddress }, slot) => {
      this.vm.setMemoryRegion({ slot, guestPhysicalAddress, byteLength, hostAddress, logDirty });
    });
  }
}

/**
 * The CPUID of a Linux guest: the result of KVM_GET_SUPPORTED_CPUID, and two features that KVM has and leaves to the VMM to add
 * (Documentation/virt/kvm/api.rst). Without HYPERVISOR, Linux does not look for KVM, and uses none of its paravirtual features.
 */
function linuxCpuid(kvm: Kvm): Cpuid {
  const deadlineTimer = kvm.checkExtension(KvmCapability.KVM_CAP_TSC_DEADLINE_TIMER) > 0 ? TSC_DEADLINE_TIMER : 0;
  return kvm.supportedCpuid().with(1, 0, { ecx: HYPERVISOR | deadlineTimer });
}

/** Returns a function that gives the growth of each counter since its last call. Counters wrap at 2^32; one that has fallen counts 0. */
function sinceLast(counts: () => readonly number[]): () => readonly number[] {
  let before = counts();
  return () => {
    const now = counts();
    const written = now.map((count, i) => Math.max(0, (count - (before[i] as number)) | 0));
    before = now;
    return written;
  };
}
