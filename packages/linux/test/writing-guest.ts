import { type DirtyRings, type Kvm, type KvmVcpu, type KvmVm, runVcpu } from '@godwit/linux';
import { KvmExit } from '@godwit/linux/kvm';

/**
 * Real-mode code that takes pairs of 32-bit numbers (address, value) from DS:SI and stores each value at ES:address,
 * until an address is 0. ES has a limit of 4 GiB.
 */
const CODE = Uint8Array.of(
  ...[0x66, 0xad], // next: lodsd
  ...[0x66, 0x85, 0xc0], // test eax, eax
  ...[0x74, 0x0b], // jz done
  ...[0x66, 0x93], // xchg eax, ebx
  ...[0x66, 0xad], // lodsd
  ...[0x26, 0x67, 0x66, 0x89, 0x03], // mov es:[ebx], eax
  ...[0xeb, 0xee], // jmp next
  0xf4, // done: hlt
);
const LIST_ADDRESS = 0x1000;
const LIST_BYTES = 0x1000;

export const RING_STAYS_FULL = 'the ring stays full, whatever is done about it';

export interface GuestWrite {
  /** Guest-physical, not 0. */
  readonly address: number;
  readonly value: number;
}

/** One KVM slot of guest-physical memory; slots follow each other from address 0 on. */
export interface GuestSlot {
  readonly hostAddress: bigint;
  readonly view: Uint8Array;
}

/** A guest that writes what it is told: its vCPU runs on this thread until all is written. Pages 0 and 1 are its own. */
export class WritingGuest {
  readonly vm: KvmVm;
  readonly rings: DirtyRings | undefined;
  /** Called when the vCPU has left the guest since its dirty ring is full. */
  onRingFull: () => void = () => {
    throw new Error('nobody reaps the ring');
  };
  readonly #slots: readonly GuestSlot[];
  readonly #vcpu: KvmVcpu;

  constructor(kvm: Kvm, slots: readonly GuestSlot[], ringEntries?: number) {
    this.#slots = slots;
    this.vm = kvm.createVm();
    if (ringEntries !== undefined) this.rings = this.vm.enableDirtyRings(ringEntries);
    this.setLogging(false);
    slots[0]?.view.set(CODE, 0);
    this.#vcpu = this.vm.createVcpu(0);
    const special = this.#vcpu.specialRegisters();
    special.setSegment('cs', { base: 0, selector: 0 });
    special.setSegment('ds', { base: LIST_ADDRESS, selector: LIST_ADDRESS >> 4 });
    special.setSegment('es', { base: 0, selector: 0, limit: 0xffffffff, g: 1 });
    this.#vcpu.setSpecialRegisters(special);
  }

  get vcpuFd(): number {
    return this.#vcpu.fd;
  }

  /** Turns dirty logging of all slots on or off. */
  setLogging(on: boolean): void {
    let guestPhysicalAddress = 0;
    for (const [slot, { hostAddress, view }] of this.#slots.entries()) {
      this.vm.setMemoryRegion({ slot, guestPhysicalAddress, byteLength: view.byteLength, hostAddress, logDirty: on });
      guestPhysicalAddress += view.byteLength;
    }
  }

  write(writes: readonly GuestWrite[]): void {
    const list = this.#slots[0]?.view.subarray(LIST_ADDRESS, LIST_ADDRESS + LIST_BYTES) as Uint8Array;
    const words = new Uint32Array(list.buffer, list.byteOffset, LIST_BYTES / 4);
    const most = LIST_BYTES / 8 - 1;
    for (let i = 0; i < writes.length; i += most) {
      const some = writes.slice(i, i + most);
      words.set(some.flatMap(({ address, value }) => [address, value]));
      words[some.length * 2] = 0;
      this.#run();
    }
  }

  close(): void {
    this.#vcpu.close();
    this.vm.close();
  }

  #run(): void {
    const registers = this.#vcpu.generalRegisters();
    registers.set('rip', 0);
    registers.set('rsi', 0);
    registers.set('rflags', 2);
    this.#vcpu.setGeneralRegisters(registers);
    let result = runVcpu(this.#vcpu.fd);
    for (let times = 0; result === 0 && this.#vcpu.run.exitReason === KvmExit.KVM_EXIT_DIRTY_RING_FULL; times++) {
      if (times === 100) throw new Error(RING_STAYS_FULL);
      this.onRingFull();
      result = runVcpu(this.#vcpu.fd);
    }
    if (result !== 0 || this.#vcpu.run.exitReason !== KvmExit.KVM_EXIT_HLT) {
      throw new Error(`the guest did not halt: ${result}, exit ${this.#vcpu.run.exitReason}`);
    }
  }
}
