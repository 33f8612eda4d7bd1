import { KVM_ENABLE_CAP, KvmDirtyLog } from '../layouts/kvm-dirty-log.js';
import { StructBuffer } from '../layouts/struct-buffer.js';
import { closeFd, ioctl, sizeArgument } from '../libc/index.js';
import { type DirtyRings, enableDirtyRings } from './dirty-ring.js';
import { KvmCapability, KvmSystemRequest, KvmValue, KvmVmRequest } from './kvm-constants.js';
import {
  kvmClockData,
  kvmIoeventfd,
  kvmIrqchip,
  kvmIrqLevel,
  kvmPitConfig,
  kvmPitState2,
  kvmUserspaceMemoryRegion,
} from './kvm-structs.js';
import { KvmVcpu } from './kvm-vcpu.js';

/** One slot of guest memory, as KVM_SET_USER_MEMORY_REGION takes it. */
export interface KvmMemoryRegion {
  /** Chosen by the VMM; setting a slot again changes it. */
  readonly slot: number;
  readonly guestPhysicalAddress: number;
  /** A multiple of the page size. 0 removes the slot. */
  readonly byteLength: number;
  /** The address of the memory in this process. It must stay mapped until the slot is removed or the VM is closed. */
  readonly hostAddress: bigint;
  /** Turns dirty logging on: see `KvmDirtyLogTracker` and `KvmDirtyRingTracker`. */
  readonly logDirty?: boolean;
}

const ALL_EVENTS = [KvmCapability.KVM_CAP_EXCEPTION_PAYLOAD, KvmCapability.KVM_CAP_X86_TRIPLE_FAULT_EVENT];

/** A write of the guest that is to be told by an event counter: see `KvmVm.notifyByEvent`. */
export interface GuestNotification {
  /** Guest-physical. */
  readonly address: number;
  readonly value: number;
  /** Of `eventfd`. */
  readonly fd: number;
}

/** One of the three interrupt chips inside KVM; the values are KVM_IRQCHIP_*. */
export const InterruptChip = {
  picMaster: KvmValue.KVM_IRQCHIP_PIC_MASTER,
  picSlave: KvmValue.KVM_IRQCHIP_PIC_SLAVE,
  ioapic: KvmValue.KVM_IRQCHIP_IOAPIC,
} as const;

/**
 * A virtual machine: memory, interrupt chips, timer, clock, and vCPUs.
 *
 * @example
 * const vm = Kvm.open().createVm();
 * vm.createIrqchip();
 * const vcpu = vm.createVcpu(0);
 */
export class KvmVm {
  readonly fd: number;
  readonly #vcpuMapBytes: number;
  #closed = false;

  /** Use `Kvm.createVm`. */
  constructor(fd: number, vcpuMapBytes: number) {
    this.fd = fd;
    this.#vcpuMapBytes = vcpuMapBytes;
  }

  /** KVM_CHECK_EXTENSION on this VM, whose answer may differ from that of /dev/kvm. 0 = absent. */
  checkExtension(capability: number): number {
    return ioctl(this.fd, KvmSystemRequest.KVM_CHECK_EXTENSION, capability, 'KVM_CHECK_EXTENSION');
  }

  /** Gives the VM dirty rings; to be called before the first slot and the first vCPU: see `enableDirtyRings`. */
  enableDirtyRings(entries?: number): DirtyRings {
    return enableDirtyRings(this.fd, entries);
  }

  /** Adds, changes or removes a slot. Only the flags of an existing slot may change, not its size or memory. */
  setMemoryRegion(region: KvmMemoryRegion): void {
    const bytes = new Uint8Array(kvmUserspaceMemoryRegion.size);
    const view = new DataView(bytes.buffer);
    const { fields } = kvmUserspaceMemoryRegion;
    view.setUint32(fields.slot[0], sizeArgument('a slot of guest memory', region.slot, 0xffff_ffff), true);
    view.setUint32(fields.flags[0], region.logDirty === true ? KvmValue.KVM_MEM_LOG_DIRTY_PAGES : 0, true);
    view.setBigUint64(
      fields.guest_phys_addr[0],
      BigInt(sizeArgument('a guest-physical address', region.guestPhysicalAddress)),
      true,
    );
    view.setBigUint64(fields.memory_size[0], BigInt(sizeArgument('the length of a slot', region.byteLength)), true);
    view.setBigUint64(fields.userspace_addr[0], region.hostAddress, true);
    ioctl(this.fd, KvmVmRequest.KVM_SET_USER_MEMORY_REGION, bytes, 'KVM_SET_USER_MEMORY_REGION');
  }

  /**
   * Sets three pages of guest-physical address space that KVM needs for itself on Intel, and one for its identity map:
   * below 4 GiB and outside RAM. To be called before the first vCPU. No effect on AMD.
   */
  setIntelPages(tssAddress: number, identityMapAddress: number): void {
    ioctl(this.fd, KvmVmRequest.KVM_SET_TSS_ADDR, tssAddress, 'KVM_SET_TSS_ADDR');
    if (this.checkExtension(KvmCapability.KVM_CAP_SET_IDENTITY_MAP_ADDR) === 0) return;
    const address = new BigUint64Array([BigInt(identityMapAddress)]);
    ioctl(this.fd, KvmVmRequest.KVM_SET_IDENTITY_MAP_ADDR, new Uint8Array(address.buffer), 'KVM_SET_IDENTITY_MAP_ADDR');
  }

  /** Two 8259 PICs, an IOAPIC, and a local APIC in each vCPU made afterwards. HLT then waits inside KVM_RUN. */
  createIrqchip(): void {
    ioctl(this.fd, KvmVmRequest.KVM_CREATE_IRQCHIP, 0, 'KVM_CREATE_IRQCHIP');
  }

  /**
   * Lets KVM_GET_VCPU_EVENTS give events that it would otherwise deliver or drop when it is called: the address of a page fault and the
   * cause of a debug exception that are pending, and a triple fault. To be called before the first vCPU is made.
   */
  reportAllEvents(): void {
    for (const capability of ALL_EVENTS) {
      if (this.checkExtension(capability) === 0) continue;
      const { bytes } = new StructBuffer(KVM_ENABLE_CAP).set('cap', capability).set('args[0]', 1);
      ioctl(this.fd, KvmDirtyLog.KVM_ENABLE_CAP, bytes, 'KVM_ENABLE_CAP');
    }
  }

  /** Whether `notifyByEvent` works. */
  get hasEvents(): boolean {
    return this.checkExtension(KvmCapability.KVM_CAP_IOEVENTFD) > 0;
  }

  /**
   * Lets KVM add one to an event counter when the guest writes `value` as 4 bytes to an address outside its memory; the vCPU then stays in
   * the guest, and no exit is seen. It lasts until the VM or the event counter is closed.
   */
  notifyByEvent({ address, value, fd }: GuestNotification): void {
    const { bytes } = new StructBuffer(kvmIoeventfd)
      .set('datamatch', value)
      .set('addr', address)
      .set('len', 4)
      .set('fd', fd)
      .set('flags', KvmValue.KVM_IOEVENTFD_FLAG_DATAMATCH);
    ioctl(this.fd, KvmVmRequest.KVM_IOEVENTFD, bytes, 'KVM_IOEVENTFD');
  }

  /** See `setIrqLine`. */
  setIrqLine(irq: number, high: boolean): void {
    setIrqLine(this.fd, irq, high);
  }

  /** The 8254 timer, with port 0x61 for the speaker. Needs the irqchip. */
  createPit2(): void {
    const config = new Uint32Array(kvmPitConfig.size / 4);
    config[0] = KvmValue.KVM_PIT_SPEAKER_DUMMY;
    ioctl(this.fd, KvmVmRequest.KVM_CREATE_PIT2, new Uint8Array(config.buffer), 'KVM_CREATE_PIT2');
  }

  /** `struct kvm_irqchip` of one chip: its id, then its registers. */
  getIrqchip(chip: number): Uint8Array {
    const words = new Uint32Array(kvmIrqchip.size / 4);
    words[0] = chip;
    const bytes = new Uint8Array(words.buffer);
    ioctl(this.fd, KvmVmRequest.KVM_GET_IRQCHIP, bytes, 'KVM_GET_IRQCHIP');
    return bytes;
  }

  /** KVM_SET_IRQCHIP. Throws `SyscallError`. */
  setIrqchip(state: Uint8Array): void {
    ioctl(this.fd, KvmVmRequest.KVM_SET_IRQCHIP, exactly(state, kvmIrqchip), 'KVM_SET_IRQCHIP');
  }

  /** KVM_GET_PIT2. Throws `SyscallError`. */
  getPit2(): Uint8Array {
    const state = new Uint8Array(kvmPitState2.size);
    ioctl(this.fd, KvmVmRequest.KVM_GET_PIT2, state, 'KVM_GET_PIT2');
    return state;
  }

  /** KVM_SET_PIT2. Throws `SyscallError`. */
  setPit2(state: Uint8Array): void {
    ioctl(this.fd, KvmVmRequest.KVM_SET_PIT2, exactly(state, kvmPitState2), 'KVM_SET_PIT2');
  }

  /** The paravirtual clock, in nanoseconds. It goes on while the vCPUs are stopped. */
  getClock(): bigint {
    const data = new Uint8Array(kvmClockData.size);
    ioctl(this.fd, KvmVmRequest.KVM_GET_CLOCK, data, 'KVM_GET_CLOCK');
    return new DataView(data.buffer).getBigUint64(kvmClockData.fields.clock[0], true);
  }

  /** Sets the paravirtual clock, without KVM_CLOCK_REALTIME: the caller decides how much of the time away counts. */
  setClock(nanoseconds: bigint): void {
    const data = new Uint8Array(kvmClockData.size);
    new DataView(data.buffer).setBigUint64(kvmClockData.fields.clock[0], nanoseconds, true);
    ioctl(this.fd, KvmVmRequest.KVM_SET_CLOCK, data, 'KVM_SET_CLOCK');
  }

  /**
   * KVM_CREATE_VCPU. Throws `SyscallError`.
   *
   * @param id also the vCPU's APIC id; vCPU 0 is the boot processor, the others wait for a start-up interrupt
   */
  createVcpu(id: number): KvmVcpu {
    sizeArgument("a vCPU's id", id, 0xffff_ffff);
    return new KvmVcpu({
      id,
      fd: ioctl(this.fd, KvmVmRequest.KVM_CREATE_VCPU, id, 'KVM_CREATE_VCPU'),
      mapBytes: this.#vcpuMapBytes,
      checkExtension: (capability) => this.checkExtension(capability),
    });
  }

  /** Idempotent. The kernel frees the VM once its vCPUs are closed too. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeFd(this.fd);
  }
}

const irqLevel = new Uint32Array(kvmIrqLevel.size / 4);
const irqLevelBytes = new Uint8Array(irqLevel.buffer);

/**
 * Sets the level of an interrupt line of the chips of `createIrqchip`, from any thread. An interrupt that is triggered by an edge comes
 * each time the line goes high. Throws `SyscallError`.
 *
 * @param vmFd the VM's descriptor
 * @param irq 0 to 15 on both PICs and the IOAPIC, 16 to 23 on the IOAPIC alone
 * @example
 * setIrqLine(vmFd, 4, true);
 * setIrqLine(vmFd, 4, false); // one interrupt of the first serial port
 */
export function setIrqLine(vmFd: number, irq: number, high: boolean): void {
  irqLevel[0] = irq;
  irqLevel[1] = high ? 1 : 0;
  ioctl(vmFd, KvmVmRequest.KVM_IRQ_LINE, irqLevelBytes, 'KVM_IRQ_LINE');
}

/** A short buffer would let the kernel read beyond it. */
function exactly(state: Uint8Array, layout: { readonly struct: string; readonly size: number }): Uint8Array {
  if (state.byteLength !== layout.size) {
    throw new RangeError(`struct ${layout.struct} has ${layout.size} bytes, got ${state.byteLength}`);
  }
  return state;
}
