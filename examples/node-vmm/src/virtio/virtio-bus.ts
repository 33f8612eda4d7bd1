import type { MigratableDevice } from '@godwit/core';
import type { DeviceMemory } from './device-memory.js';
import { InterruptLine } from './interrupt-line.js';
import { slotIrq } from './mmio-slots.js';
import { MmioTransport } from './mmio-transport.js';
import { TransportState } from './transport-state.js';
import type { VirtioDevice } from './virtio-device.js';
import { CallWord, MAX_VIRTIO_DEVICES, VirtioWord, type VirtioWords } from './virtio-words.js';

/** What the virtio devices of a machine are connected to. */
export interface VirtioBusParts {
  readonly words: VirtioWords;
  readonly memory: DeviceMemory;
  /** Sets the level of an interrupt line. */
  setIrqLine(irq: number, high: boolean): void;
  /** Called when the guest has broken a device, with the reason. */
  onNeedsReset(device: string, reason: string): void;
}

/** The main thread's side of a machine's virtio devices, each in its slot: it answers the requests of `MmioWindow`. */
export class VirtioBus {
  /** The devices' states, in the order of their slots. */
  readonly states: readonly MigratableDevice[];
  readonly #words: VirtioWords;
  readonly #transports: readonly MmioTransport[];
  #closed = false;

  /** @param devices at most `MAX_VIRTIO_DEVICES` */
  constructor(devices: readonly VirtioDevice[], { words, memory, setIrqLine, onNeedsReset }: VirtioBusParts) {
    if (devices.length > MAX_VIRTIO_DEVICES) {
      throw new RangeError(`a machine has at most ${MAX_VIRTIO_DEVICES} virtio devices, got ${devices.length}`);
    }
    this.#words = words;
    this.#transports = devices.map((device, slot) => {
      const interrupt = new InterruptLine(words, slot, (high) => setIrqLine(slotIrq(slot), high));
      return new MmioTransport(device, { memory, interrupt, onNeedsReset });
    });
    this.states = this.#transports.map((transport) => new TransportState(transport));
  }

  /** Starts all devices. @throws GodwitError the error of a device that must not run; no device is started then */
  start(): void {
    const started: MmioTransport[] = [];
    try {
      for (const transport of this.#transports) {
        transport.start();
        started.push(transport);
      }
    } catch (error) {
      for (const transport of started) transport.stop().catch(() => undefined);
      throw error;
    }
  }

  /** Resolves when every request that a device has taken is completed, and no device writes guest memory or a file any more. */
  async stop(): Promise<void> {
    await Promise.all(this.#transports.map((transport) => transport.stop()));
  }

  /**
   * Frees the resources of all devices. Idempotent. The failure of one device does not keep the others from being freed: a disk has already
   * reported a failed write to the guest, or to the caller that paused the machine.
   */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await Promise.allSettled(this.#transports.map((transport) => transport.stop()));
    await Promise.allSettled(this.#transports.map(({ device }) => device.close?.()));
  }

  /** Answers a register access of a vCPU, which waits for it. */
  answer(vcpu: number): void {
    const { words } = this.#words;
    const at = this.#words.call(vcpu);
    const field = (word: number): number => words[at + word] as number;
    const transport = this.#transports[field(CallWord.device)];
    const [offset, size] = [field(CallWord.offset), field(CallWord.size)];
    if (field(CallWord.isWrite) !== 0) transport?.write(offset, size, field(CallWord.value) >>> 0);
    else words[at + CallWord.value] = (transport?.read(offset, size) ?? 0) | 0;
    Atomics.store(words, at + CallWord.pending, 0);
    Atomics.notify(words, at + CallWord.pending);
  }

  /** Serves the queues of all devices that were notified. */
  notified(): void {
    this.#transports.forEach((transport, slot) => {
      // The bit is cleared first, so that a later notification sends another message.
      const bits = Atomics.exchange(this.#words.words, this.#words.device(slot) + VirtioWord.notified, 0);
      transport.queues.forEach((queue, i) => {
        if ((bits & (1 << i)) !== 0) queue.kick();
      });
    });
  }
}
