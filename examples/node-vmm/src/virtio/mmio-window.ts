import { InterruptLine } from './interrupt-line.js';
import { slotAddress, slotIrq, VIRTIO_ADDRESS, VIRTIO_SLOT_BYTES } from './mmio-slots.js';
import { MmioRegister } from './virtio-numbers.js';
import { CallWord, VirtioWord, type VirtioWords } from './virtio-words.js';

/** The time between two calls of `gaveUp` while a vCPU's thread waits for an answer. Milliseconds. */
const ANSWER_WAIT_MS = 20;
/** The most queues of a device that can be notified: each has one bit of a word. */
const MOST_QUEUES = 31;

/** The calls that the thread of a vCPU makes for an access to a device. */
export interface MmioWindowParts {
  readonly words: VirtioWords;
  readonly vcpu: number;
  readonly devices: number;
  /** Sets the level of an interrupt line. */
  setIrqLine(irq: number, high: boolean): void;
  /** Tells the main thread that a register access waits for its answer. */
  call(): void;
  /** Tells the main thread that a device was notified; called once until the main thread has read the notifications. */
  notify(): void;
  /** Asked while an answer is awaited; true ends the wait, with zeros as the answer. */
  gaveUp(): boolean;
}

/**
 * The registers of all virtio devices, as the thread of one vCPU sees them. The main thread answers an access, and the vCPU waits for the
 * answer. The frequent accesses are handled on the vCPU's thread: notifying a queue, and reading and acknowledging the interrupt status.
 */
export class MmioWindow {
  readonly #parts: MmioWindowParts;
  readonly #lines: readonly InterruptLine[];
  readonly #call: number;

  constructor(parts: MmioWindowParts) {
    this.#parts = parts;
    this.#lines = Array.from(
      { length: parts.devices },
      (_, device) => new InterruptLine(parts.words, device, (high) => parts.setIrqLine(slotIrq(device), high)),
    );
    this.#call = parts.words.call(parts.vcpu);
  }

  /**
   * Handles an access.
   *
   * @param data the bytes that the guest writes, or room for those it reads. Reads of 3 bytes or across a word give zeros
   * @returns false when no device is at the address
   */
  access(address: number, data: Uint8Array, isWrite: boolean): boolean {
    const device = Math.floor((address - VIRTIO_ADDRESS) / VIRTIO_SLOT_BYTES);
    if (device < 0 || device >= this.#lines.length) return false;
    const offset = address - slotAddress(device);
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    // An access of 8 bytes is two of 4.
    for (let at = 0; at < data.byteLength; at += 4) {
      const size = Math.min(data.byteLength - at, 4);
      if (isWrite) this.#write(device, offset + at, size, readNumber(view, at, size));
      else writeNumber(view, at, size, this.#read(device, offset + at, size));
    }
    return true;
  }

  #read(device: number, offset: number, size: number): number {
    if (offset === MmioRegister.interruptStatus) return this.#line(device).status;
    return this.#ask(device, offset, size, false, 0);
  }

  #write(device: number, offset: number, size: number, value: number): void {
    if (offset === MmioRegister.interruptAcknowledge) this.#line(device).acknowledge(value);
    else if (offset === MmioRegister.queueNotify) this.#notify(device, value);
    else this.#ask(device, offset, size, true, value);
  }

  #line(device: number): InterruptLine {
    return this.#lines[device] as InterruptLine;
  }

  /** Notes the queue. The main thread has at most one waiting message of each device, however often the guest notifies it. */
  #notify(device: number, queue: number): void {
    if (queue >= MOST_QUEUES) return;
    const { words } = this.#parts.words;
    const before = Atomics.or(words, this.#parts.words.device(device) + VirtioWord.notified, 1 << queue);
    if (before === 0) this.#parts.notify();
  }

  #ask(device: number, offset: number, size: number, isWrite: boolean, value: number): number {
    const { words } = this.#parts.words;
    const at = this.#call;
    words[at + CallWord.device] = device;
    words[at + CallWord.offset] = offset;
    words[at + CallWord.size] = size;
    words[at + CallWord.isWrite] = isWrite ? 1 : 0;
    words[at + CallWord.value] = value | 0;
    Atomics.store(words, at + CallWord.pending, 1);
    this.#parts.call();
    while (Atomics.load(words, at + CallWord.pending) !== 0) {
      if (this.#parts.gaveUp()) return 0;
      Atomics.wait(words, at + CallWord.pending, 1, ANSWER_WAIT_MS);
    }
    return (words[at + CallWord.value] as number) >>> 0;
  }
}

function readNumber(view: DataView, at: number, size: number): number {
  let value = 0;
  for (let i = size - 1; i >= 0; i--) value = value * 256 + view.getUint8(at + i);
  return value;
}

function writeNumber(view: DataView, at: number, size: number, value: number): void {
  for (let i = 0; i < size; i++) view.setUint8(at + i, value >>> (8 * i));
}
