import type { Machine } from '@godwit/example-node-vmm';
import { DeviceStatus, MmioRegister } from '../../dist/virtio/virtio-numbers.js';
import { toyKernel } from '../linux/toy-kernel.js';
import { FakeDriver, type FakeQueue } from './fake-driver.js';

const SLOT_0 = 0xd000_0000;
const SLOT_BYTES = 0x1000;
const LIST = 0x20_0000;
const QUEUES = 0x80_0000;
/** In the page tables that a Linux is entered with: see `writeIdentityMap`. */
const DIRECTORY_POINTERS = 0x2_1000;
const DIRECTORY = 0x2_3000;

/**
 * Carries out the list: pairs of an address and a value. With address 0 the list ends; with address 1 the value is an address of 16 bits,
 * and the guest waits until that is not 0, and prints "u". It writes to other addresses. It prints "." at the end, and halts.
 *
 * mov esi, LIST; next: mov edi, [rsi]; mov eax, [rsi+4]; add esi, 8; cmp edi, 1; jb end; je wait; mov [rdi], eax; jmp next;
 * wait: cmp word [rax], 0; je wait; mov al, 'u'; mov edx, 0x3f8; out dx, al; jmp next; end: mov al, '.'; mov edx, 0x3f8; out dx, al; hlt
 */
const CARRIES_OUT = [
  ...[0xbe, 0x00, 0x00, 0x20, 0x00],
  ...[0x8b, 0x3e, 0x8b, 0x46, 0x04, 0x83, 0xc6, 0x08, 0x83, 0xff, 0x01, 0x72, 0x16, 0x74, 0x04, 0x89, 0x07, 0xeb, 0xed],
  ...[0x66, 0x83, 0x38, 0x00, 0x74, 0xfa, 0xb0, 0x75, 0xba, 0xf8, 0x03, 0x00, 0x00, 0xee, 0xeb, 0xdd],
  ...[0xb0, 0x2e, 0xba, 0xf8, 0x03, 0x00, 0x00, 0xee, 0xf4],
];

/** The driver of one virtio device as a list of register accesses, which a small guest on KVM carries out. */
export class ListGuest {
  /** The guest's kernel. */
  static readonly kernel = toyKernel(CARRIES_OUT);
  /** An address whose 16 bits are not 0: the first one that the guest writes to. */
  static readonly notZero = LIST;
  readonly driver: FakeDriver;
  readonly #machine: Machine;
  readonly #registers: number;
  #next = 0;

  constructor(
    machine: Machine,
    { slot, queues, queueSize = 64 }: { slot: number; queues: number; queueSize?: number },
  ) {
    this.#machine = machine;
    this.#registers = SLOT_0 + slot * SLOT_BYTES;
    // The guest's page tables end with its RAM: a page directory for the fourth gibibyte maps the registers' 2 MiB to themselves.
    this.#setEntry(DIRECTORY_POINTERS + 3 * 8, DIRECTORY | 0x23);
    this.#setEntry(DIRECTORY + ((SLOT_0 >>> 21) & 511) * 8, SLOT_0 + 0xe3);
    const registers = {
      // The test knows what the device offers.
      read: () => 0,
      write: (offset: number, _size: number, value: number) => this.write(this.#registers + offset, value),
    };
    this.driver = new FakeDriver(registers, (address, length) => machine.ram.view(address, length), {
      ...{ base: QUEUES, queues, size: queueSize },
    });
  }

  /** The address of a field of the device's configuration. */
  config(offset: number): number {
    return this.#registers + MmioRegister.config + offset;
  }

  queue(index: number): FakeQueue {
    return this.driver.queues[index] as FakeQueue;
  }

  /** Lets the guest write 32 bits. */
  write(address: number, value: number): void {
    const bytes = this.#machine.ram.view(LIST + 8 * this.#next++, 8);
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    view.setUint32(0, address, true);
    view.setUint32(4, value, true);
  }

  /** Lets the guest wait until 16 bits are not 0. */
  waitFor(address: number): void {
    this.write(1, address);
  }

  /** A driver's way to a device that works. */
  initialize(features: bigint): void {
    const { acknowledge, driver: known, featuresOk, driverOk } = DeviceStatus;
    this.driver.status = 0;
    this.driver.status = acknowledge | known;
    this.driver.accept(features);
    this.driver.status = acknowledge | known | featuresOk;
    for (const queue of this.driver.queues) queue.setUp();
    this.driver.status = acknowledge | known | featuresOk | driverOk;
  }

  #setEntry(address: number, value: number): void {
    const bytes = this.#machine.ram.view(address, 8);
    new DataView(bytes.buffer, bytes.byteOffset).setBigUint64(0, BigInt(value), true);
  }
}
