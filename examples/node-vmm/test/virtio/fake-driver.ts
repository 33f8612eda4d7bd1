import { DescriptorFlag, DeviceStatus, MmioRegister } from '../../dist/virtio/virtio-numbers.js';

/** Registers of a device, however they are reached. */
export interface Registers {
  read(offset: number, size: number): number;
  write(offset: number, size: number, value: number): void;
}

/** Guest memory by guest-physical address. */
export type View = (address: number, byteLength: number) => Uint8Array;

/** A buffer of a request: bytes for the device, or room for it. */
export type Buffer = { readonly out: Uint8Array } | { readonly room: number };

const AREA_BYTES = 0x4000;

/** One queue as Linux lays it out: descriptors, the available ring, the used ring, and buffers behind each other. */
export class FakeQueue {
  readonly base: number;
  readonly size: number;
  readonly index: number;
  readonly #registers: Registers;
  readonly #view: View;
  #nextBuffer: number;
  #nextDescriptor = 0;
  #available = 0;
  #used = 0;
  /** Addresses of the room of each chain, by its head. */
  readonly #rooms = new Map<number, { address: number; byteLength: number }[]>();

  constructor(registers: Registers, view: View, { index, base, size }: { index: number; base: number; size: number }) {
    this.#registers = registers;
    this.#view = view;
    this.index = index;
    this.base = base;
    this.size = size;
    this.#nextBuffer = base + AREA_BYTES;
  }

  get availableRing(): number {
    return this.base + 0x1000;
  }

  get usedRing(): number {
    return this.base + 0x2000;
  }

  /** Tells the device of the queue. */
  setUp(): void {
    this.#view(this.base, AREA_BYTES).fill(0);
    const { write } = register(this.#registers);
    write(MmioRegister.queueSelect, this.index);
    write(MmioRegister.queueSize, this.size);
    write(MmioRegister.queueDescriptorLow, this.base);
    write(MmioRegister.queueDescriptorHigh, 0);
    write(MmioRegister.queueDriverLow, this.availableRing);
    write(MmioRegister.queueDriverHigh, 0);
    write(MmioRegister.queueDeviceLow, this.usedRing);
    write(MmioRegister.queueDeviceHigh, 0);
    write(MmioRegister.queueReady, 1);
  }

  /** Writes a descriptor as it is given, whether it makes sense or not. */
  describe(index: number, address: number | bigint, byteLength: number, flags: number, next: number): void {
    const view = this.#data(this.base + 16 * index, 16);
    view.setBigUint64(0, BigInt(address), true);
    view.setUint32(8, byteLength, true);
    view.setUint16(12, flags, true);
    view.setUint16(14, next, true);
  }

  /** Makes a chain of buffers available; returns its head. */
  add(buffers: readonly Buffer[]): number {
    const head = this.#nextDescriptor;
    const rooms: { address: number; byteLength: number }[] = [];
    buffers.forEach((buffer, i) => {
      const index = (head + i) % this.size;
      const byteLength = 'out' in buffer ? buffer.out.byteLength : buffer.room;
      const address = this.#nextBuffer;
      this.#nextBuffer += Math.ceil(byteLength / 16) * 16;
      if ('out' in buffer) this.#view(address, byteLength).set(buffer.out);
      else rooms.push({ address, byteLength });
      const more = i + 1 < buffers.length;
      const flags = ('out' in buffer ? 0 : DescriptorFlag.write) | (more ? DescriptorFlag.next : 0);
      this.describe(index, address, byteLength, flags, (index + 1) % this.size);
    });
    this.#nextDescriptor = (head + buffers.length) % this.size;
    this.#rooms.set(head, rooms);
    this.offer(head);
    return head;
  }

  /** Puts a number into the available ring, whether a chain begins there or not. */
  offer(head: number): void {
    this.#data(this.availableRing + 4 + 2 * (this.#available % this.size), 2).setUint16(0, head, true);
    this.setAvailable(this.#available + 1);
  }

  setAvailable(index: number): void {
    this.#available = index & 0xffff;
    this.#data(this.availableRing + 2, 2).setUint16(0, this.#available, true);
  }

  kick(): void {
    register(this.#registers).write(MmioRegister.queueNotify, this.index);
  }

  /** Addresses of the room of a chain. */
  roomOf(head: number): readonly { address: number; byteLength: number }[] {
    return this.#rooms.get(head) ?? [];
  }

  /** Chains that the device has given back since the last call: their heads, and what was written into them. */
  takeUsed(): { head: number; written: Uint8Array }[] {
    const index = this.#data(this.usedRing + 2, 2).getUint16(0, true);
    const taken: { head: number; written: Uint8Array }[] = [];
    for (; this.#used !== index; this.#used = (this.#used + 1) & 0xffff) {
      const entry = this.#data(this.usedRing + 4 + 8 * (this.#used % this.size), 8);
      const head = entry.getUint32(0, true);
      const rooms = this.roomOf(head).map(({ address, byteLength }) => this.#view(address, byteLength));
      taken.push({ head, written: new Uint8Array(concat(rooms)).subarray(0, entry.getUint32(4, true)) });
    }
    return taken;
  }

  #data(address: number, byteLength: number): DataView {
    const bytes = this.#view(address, byteLength);
    return new DataView(bytes.buffer, bytes.byteOffset, byteLength);
  }
}

/** A driver that initializes a device as the specification says (3.1.1), and has queues in a piece of memory. */
export class FakeDriver {
  readonly registers: Registers;
  readonly queues: readonly FakeQueue[];

  /** @param base of the memory of the first queue; each further one is `stride` bytes behind */
  constructor(
    registers: Registers,
    view: View,
    options: { base: number; queues: number; size?: number; stride?: number },
  ) {
    const { base, size = 64, stride = 0x10_0000 } = options;
    this.registers = registers;
    this.queues = Array.from(
      { length: options.queues },
      (_, index) => new FakeQueue(registers, view, { index, base: base + index * stride, size }),
    );
  }

  get status(): number {
    return register(this.registers).read(MmioRegister.status);
  }

  set status(value: number) {
    register(this.registers).write(MmioRegister.status, value);
  }

  offered(): bigint {
    const { read, write } = register(this.registers);
    let features = 0n;
    for (const select of [1, 0]) {
      write(MmioRegister.deviceFeaturesSelect, select);
      features = (features << 32n) | BigInt(read(MmioRegister.deviceFeatures));
    }
    return features;
  }

  accept(features: bigint): void {
    const { write } = register(this.registers);
    for (const select of [0, 1]) {
      write(MmioRegister.driverFeaturesSelect, select);
      write(MmioRegister.driverFeatures, Number(BigInt.asUintN(32, features >> BigInt(32 * select))));
    }
  }

  /** From the reset to a device that works; accepts all that is offered. */
  initialize(): void {
    const { acknowledge, driver, featuresOk, driverOk } = DeviceStatus;
    this.status = 0;
    this.status = acknowledge;
    this.status = acknowledge | driver;
    this.accept(this.offered());
    this.status = acknowledge | driver | featuresOk;
    for (const queue of this.queues) queue.setUp();
    this.status = acknowledge | driver | featuresOk | driverOk;
  }

  config(offset: number, byteLength: number): Uint8Array {
    return Uint8Array.from({ length: byteLength }, (_, i) => this.registers.read(MmioRegister.config + offset + i, 1));
  }
}

function register({ read, write }: Registers): {
  read(offset: number): number;
  write(offset: number, value: number): void;
} {
  return { read: (offset) => read(offset, 4), write: (offset, value) => write(offset, 4, value) };
}

function concat(pieces: readonly Uint8Array[]): number[] {
  return pieces.flatMap((piece) => [...piece]);
}
