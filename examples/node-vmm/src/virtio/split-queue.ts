import { DescriptorChain } from './descriptor-chain.js';
import type { DeviceMemory, GuestRange } from './device-memory.js';
import { DescriptorFlag } from './virtio-numbers.js';

const DESCRIPTOR_BYTES = 16;
/** The size of the flags and the index, which precede the entries of both rings. */
const RING_HEADER_BYTES = 4;
const INDEX_AT = 2;
const AVAILABLE_ENTRY_BYTES = 2;
const USED_ENTRY_BYTES = 8;

/** A queue that the guest has laid out or filled against the specification: the device needs a reset. */
export class QueueFault extends Error {}

/** The layout of a queue, as the driver has set it in registers, and the device's position in it: the state that migrates. */
export interface QueueRegisters {
  /** Number of descriptors. */
  size: number;
  ready: boolean;
  /** Guest-physical addresses of 64 bits, unchecked, from the driver. */
  descriptors: bigint;
  driverArea: bigint;
  deviceArea: bigint;
  /** The index of the next available entry to be taken, and of the next used entry to be written, modulo 2^16. */
  nextAvailable: number;
  nextUsed: number;
}

export function emptyQueue(size: number): QueueRegisters {
  const addresses = { descriptors: 0n, driverArea: 0n, deviceArea: 0n };
  return { size, ready: false, ...addresses, nextAvailable: 0, nextUsed: 0 };
}

/**
 * A split virtqueue in guest memory (2.7). The guest is not trusted: every index, address and length is checked before it is used, and a
 * chain is read once, so that a change by the guest in the meantime has no effect. The device sends an interrupt for every chain, whatever
 * the driver's flags are.
 */
export class SplitQueue {
  readonly registers: QueueRegisters;
  readonly #memory: DeviceMemory;
  readonly #maximumSize: number;
  readonly #maximumChainBytes: number;
  /** An entry of the used ring. */
  readonly #used = new DataView(new ArrayBuffer(USED_ENTRY_BYTES));

  /** @param maximumChainBytes the largest sum of the sizes of one chain's buffers */
  constructor(memory: DeviceMemory, maximumSize: number, maximumChainBytes: number) {
    this.#memory = memory;
    this.#maximumSize = maximumSize;
    this.#maximumChainBytes = maximumChainBytes;
    this.registers = emptyQueue(maximumSize);
  }

  /**
   * The three areas of the queue, which have to be present before it is used.
   *
   * @throws QueueFault when one of them is not aligned, or not in RAM, or the size is impossible
   */
  areas(): readonly GuestRange[] {
    const { size, descriptors, driverArea, deviceArea } = this.registers;
    if (size < 1 || size > this.#maximumSize || (size & (size - 1)) !== 0) {
      throw new QueueFault(`a queue has a power of two of descriptors up to ${this.#maximumSize}, got ${size}`);
    }
    return [
      this.#area('descriptor table', descriptors, size * DESCRIPTOR_BYTES, 16),
      this.#area('driver area', driverArea, RING_HEADER_BYTES + size * AVAILABLE_ENTRY_BYTES, 2),
      this.#area('device area', deviceArea, RING_HEADER_BYTES + size * USED_ENTRY_BYTES, 4),
    ];
  }

  /**
   * The next chain that the driver has made available; `take` removes it. Undefined when there is none. Only after `areas`.
   *
   * @throws QueueFault for a ring index or a chain against the specification
   */
  peek(): DescriptorChain | undefined {
    const { size, nextAvailable } = this.registers;
    const available = Number(this.registers.driverArea);
    const waiting = (this.#memory.u16(available + INDEX_AT) - nextAvailable) & 0xffff;
    if (waiting === 0) return undefined;
    if (waiting > size) {
      throw new QueueFault(`${waiting} chains are said to be available, in a queue of ${size} descriptors`);
    }
    const entry = available + RING_HEADER_BYTES + (nextAvailable & (size - 1)) * AVAILABLE_ENTRY_BYTES;
    return this.#chain(this.#memory.u16(entry));
  }

  /** Takes the chain that `peek` has returned. */
  take(): void {
    this.registers.nextAvailable = (this.registers.nextAvailable + 1) & 0xffff;
  }

  /** Returns a chain to the driver. @param written the number of bytes that the device has written into it */
  use(head: number, written: number): void {
    const { size, nextUsed } = this.registers;
    const used = Number(this.registers.deviceArea);
    this.#used.setUint32(0, head, true);
    this.#used.setUint32(4, written, true);
    const entry = used + RING_HEADER_BYTES + (nextUsed & (size - 1)) * USED_ENTRY_BYTES;
    this.#memory.write(entry, new Uint8Array(this.#used.buffer));
    // The driver reads the entry once it sees the index: a processor of this kind shows stores in their order.
    this.registers.nextUsed = (nextUsed + 1) & 0xffff;
    this.#memory.setU16(used + INDEX_AT, this.registers.nextUsed);
  }

  #area(name: string, address: bigint, byteLength: number, alignment: number): GuestRange {
    const range = { address: Number(address), byteLength };
    if (range.address % alignment !== 0 || !this.#memory.contains(range)) {
      throw new QueueFault(
        `the ${name} of a queue is ${byteLength} bytes of RAM at a multiple of ${alignment}, got 0x${address.toString(16)}`,
      );
    }
    return range;
  }

  #chain(head: number): DescriptorChain {
    const { size } = this.registers;
    const readable: GuestRange[] = [];
    const writable: GuestRange[] = [];
    let total = 0;
    let index = head;
    for (let count = 1; ; count++) {
      if (index >= size) throw new QueueFault(`there is no descriptor ${index} in a queue of ${size}`);
      if (count > size) throw new QueueFault(`the chain at ${head} has more than ${size} descriptors, or a loop`);
      const { address, byteLength, flags, next } = this.#descriptor(index);
      if ((flags & DescriptorFlag.indirect) !== 0) {
        throw new QueueFault(`descriptor ${index} is indirect, which was not negotiated`);
      }
      const isWritable = (flags & DescriptorFlag.write) !== 0;
      if (!isWritable && writable.length > 0) {
        throw new QueueFault(`descriptor ${index} is to be read, behind one that is to be written`);
      }
      const range = { address: Number(address), byteLength };
      if (byteLength === 0 || !this.#memory.contains(range)) {
        throw new QueueFault(`descriptor ${index} has ${byteLength} bytes at 0x${address.toString(16)}, not RAM`);
      }
      total += byteLength;
      if (total > this.#maximumChainBytes) {
        throw new QueueFault(`the chain at ${head} has more than ${this.#maximumChainBytes} bytes`);
      }
      (isWritable ? writable : readable).push(range);
      if ((flags & DescriptorFlag.next) === 0) return new DescriptorChain(this.#memory, head, readable, writable);
      index = next;
    }
  }

  #descriptor(index: number): { address: bigint; byteLength: number; flags: number; next: number } {
    const view = this.#memory.view(Number(this.registers.descriptors) + index * DESCRIPTOR_BYTES, DESCRIPTOR_BYTES);
    return {
      address: view.getBigUint64(0, true),
      byteLength: view.getUint32(8, true),
      flags: view.getUint16(12, true),
      next: view.getUint16(14, true),
    };
  }
}
