import type { Kvm, KvmVcpu, KvmVm } from '@godwit/linux';
import { GeneralRegisters } from '@godwit/linux/kvm';
import { MapFlags, mmap, munmap, viewOf } from '@godwit/linux/unstable';

const MEMORY_BYTES = 0x10000;
/** Where the code goes; addresses below are left to the guest. */
export const CODE_ADDRESS = 0x1000;

/** A VM with 64 KiB, one vCPU in real mode at the given code, and all chips. */
export class RealModeGuest {
  readonly vm: KvmVm;
  readonly vcpu: KvmVcpu;
  readonly #memory: bigint;

  constructor(kvm: Kvm, code: readonly number[]) {
    this.#memory = mmap({ byteLength: MEMORY_BYTES, flags: MapFlags.MAP_SHARED | MapFlags.MAP_ANONYMOUS });
    this.vm = kvm.createVm();
    this.vm.setIntelPages(0xfffb_d000, 0xfffb_c000);
    this.vm.createIrqchip();
    this.vm.createPit2();
    this.vm.setMemoryRegion({
      slot: 0,
      guestPhysicalAddress: 0,
      byteLength: MEMORY_BYTES,
      hostAddress: this.#memory,
    });
    viewOf(this.#memory, MEMORY_BYTES).set(code, CODE_ADDRESS);
    this.vcpu = this.vm.createVcpu(0);
    this.vcpu.setCpuid(kvm.supportedCpuid().forVcpu(0));
    const special = this.vcpu.specialRegisters();
    special.setSegment('cs', { base: 0, selector: 0 });
    this.vcpu.setSpecialRegisters(special);
    const general = new GeneralRegisters();
    general.set('rip', CODE_ADDRESS);
    general.set('rflags', 2);
    this.vcpu.setGeneralRegisters(general);
  }

  close(): void {
    this.vcpu.close();
    this.vm.close();
    munmap(this.#memory, MEMORY_BYTES);
  }
}
