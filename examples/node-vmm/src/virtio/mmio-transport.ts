import type { DeviceMemory } from './device-memory.js';
import { DeviceQueue } from './device-queue.js';
import type { InterruptLine } from './interrupt-line.js';
import type { QueueRegisters } from './split-queue.js';
import type { VirtioDevice } from './virtio-device.js';
import {
  DeviceStatus,
  FEATURE_VERSION_1,
  InterruptBit,
  KNOWN_STATUS,
  MMIO_MAGIC,
  MMIO_VENDOR,
  MMIO_VERSION,
  MmioRegister,
} from './virtio-numbers.js';

/** Descriptors of a queue, at most. A power of two. */
export const QUEUE_SIZE = 128;

/** The registers with state that migrates, except those of the queues and the interrupt status. */
export interface TransportRegisters {
  status: number;
  deviceFeaturesSelect: number;
  driverFeaturesSelect: number;
  driverFeatures: bigint;
  queueSelect: number;
  configGeneration: number;
}

/** What a transport is connected to. */
export interface TransportParts {
  readonly memory: DeviceMemory;
  readonly interrupt: Pick<InterruptLine, 'status' | 'raise' | 'acknowledge' | 'set'>;
  /** Called with the reason when the guest has broken the device, which then does nothing until the driver resets it. */
  onNeedsReset(device: string, reason: string): void;
}

/**
 * The MMIO transport of one device (4.2), version 2: its registers, the negotiation of features, the device status, and its queues. It
 * is used on the main thread only.
 *
 * ```
 * reset -> acknowledge -> driver -> features OK -> driver OK: the queues work     what breaks the device: needs reset
 *   ^________________________ the driver writes 0 to the status ______________________________________|
 * ```
 */
export class MmioTransport {
  readonly device: VirtioDevice;
  readonly queues: readonly DeviceQueue[];
  readonly interrupt: TransportParts['interrupt'];
  readonly #parts: TransportParts;
  #registers = initialRegisters();
  #running = false;

  constructor(device: VirtioDevice, parts: TransportParts) {
    this.device = device;
    this.interrupt = parts.interrupt;
    this.#parts = parts;
    this.queues = device.queues.map(
      (service) =>
        new DeviceQueue(parts.memory, QUEUE_SIZE, service, {
          onUsed: () => this.interrupt.raise(InterruptBit.usedBuffer),
          onFault: (reason) => this.#break(reason),
        }),
    );
    device.attach({
      kick: (queue) => this.queues[queue]?.kick(),
      memory: parts.memory,
      features: () => this.#accepted,
      configChanged: () => this.#configChanged(),
    });
  }

  /** The features that the device offers. */
  get offered(): bigint {
    return this.device.features | FEATURE_VERSION_1;
  }

  get registers(): Readonly<TransportRegisters> {
    return this.#registers;
  }

  /** Starts the queues if the driver has set them up. @throws GodwitError the error of the device, which then does not run */
  start(): void {
    this.device.start?.();
    this.#running = true;
    this.#startQueues();
  }

  /** Resolves when the device works on no chain and writes nothing more. */
  async stop(): Promise<void> {
    this.#running = false;
    await Promise.all(this.queues.map((queue) => queue.stop()));
    // A pause that was given up has restarted the device.
    if (!this.#running) await this.device.stop?.();
  }

  /** Loads the state of another transport; only while the machine is paused. */
  restore(registers: TransportRegisters, queues: readonly QueueRegisters[], interruptStatus: number): void {
    this.#registers = { ...registers };
    this.queues.forEach((queue, i) => {
      queue.reset();
      Object.assign(queue.registers, queues[i]);
    });
    this.interrupt.set(interruptStatus);
  }

  /** Reads a register, or bytes of the configuration space. @param size 1, 2 or 4 */
  read(offset: number, size: number): number {
    if (offset >= MmioRegister.config) return readLittleEndian(this.device.config, offset - MmioRegister.config, size);
    if (size !== 4) return 0;
    const { queue } = this;
    switch (offset) {
      case MmioRegister.magic:
        return MMIO_MAGIC;
      case MmioRegister.version:
        return MMIO_VERSION;
      case MmioRegister.deviceType:
        return this.device.type;
      case MmioRegister.vendor:
        return MMIO_VENDOR;
      case MmioRegister.deviceFeatures:
        return word(this.offered, this.#registers.deviceFeaturesSelect);
      case MmioRegister.queueSizeMaximum:
        return queue === undefined ? 0 : QUEUE_SIZE;
      case MmioRegister.queueReady:
        return queue?.registers.ready === true ? 1 : 0;
      case MmioRegister.interruptStatus:
        return this.interrupt.status;
      case MmioRegister.status:
        return this.#registers.status;
      case MmioRegister.configGeneration:
        return this.#registers.configGeneration;
      default:
        // The length and the address of a missing shared memory region are all ones.
        return offset >= MmioRegister.sharedMemoryLengthLow && offset <= MmioRegister.sharedMemoryBaseHigh
          ? 0xffff_ffff
          : 0;
    }
  }

  /** Writes a register, or bytes of the configuration space. @param size 1, 2 or 4 */
  write(offset: number, size: number, value: number): void {
    if (offset >= MmioRegister.config) {
      const bytes = new Uint8Array(size);
      for (let i = 0; i < size; i++) bytes[i] = value >>> (8 * i);
      this.device.writeConfig?.(offset - MmioRegister.config, bytes);
      return;
    }
    if (size !== 4) return;
    const registers = this.#registers;
    switch (offset) {
      case MmioRegister.deviceFeaturesSelect:
        registers.deviceFeaturesSelect = value;
        return;
      case MmioRegister.driverFeaturesSelect:
        registers.driverFeaturesSelect = value;
        return;
      case MmioRegister.driverFeatures:
        // Accepted features cannot be changed.
        if ((registers.status & DeviceStatus.featuresOk) === 0) this.#setDriverFeatures(value);
        return;
      case MmioRegister.queueSelect:
        registers.queueSelect = value;
        return;
      case MmioRegister.queueNotify:
        this.queues[value]?.kick();
        return;
      case MmioRegister.interruptAcknowledge:
        this.interrupt.acknowledge(value);
        return;
      case MmioRegister.status:
        this.#setStatus(value);
        return;
      default:
        this.#writeQueue(offset, value);
    }
  }

  private get queue(): DeviceQueue | undefined {
    return this.queues[this.#registers.queueSelect];
  }

  #writeQueue(offset: number, value: number): void {
    const { queue } = this;
    if (queue === undefined) return;
    if (offset === MmioRegister.queueReady) {
      if (value === 0) queue.reset();
      else {
        queue.registers.ready = true;
        queue.kick();
      }
      return;
    }
    // A queue that is ready keeps its place and its size.
    if (queue.registers.ready) return;
    const { registers } = queue;
    if (offset === MmioRegister.queueSize) registers.size = value;
    if (offset === MmioRegister.queueDescriptorLow) registers.descriptors = withLow(registers.descriptors, value);
    if (offset === MmioRegister.queueDescriptorHigh) registers.descriptors = withHigh(registers.descriptors, value);
    if (offset === MmioRegister.queueDriverLow) registers.driverArea = withLow(registers.driverArea, value);
    if (offset === MmioRegister.queueDriverHigh) registers.driverArea = withHigh(registers.driverArea, value);
    if (offset === MmioRegister.queueDeviceLow) registers.deviceArea = withLow(registers.deviceArea, value);
    if (offset === MmioRegister.queueDeviceHigh) registers.deviceArea = withHigh(registers.deviceArea, value);
  }

  #setDriverFeatures(value: number): void {
    const registers = this.#registers;
    const { driverFeatures } = registers;
    if (registers.driverFeaturesSelect === 0) registers.driverFeatures = withLow(driverFeatures, value);
    if (registers.driverFeaturesSelect === 1) registers.driverFeatures = withHigh(driverFeatures, value);
  }

  #setStatus(value: number): void {
    if (value === 0) {
      this.#reset();
      return;
    }
    const registers = this.#registers;
    const { featuresOk, driverOk, needsReset } = DeviceStatus;
    // Only the device sets that it needs a reset, and only a reset clears a bit.
    let status = registers.status | (value & KNOWN_STATUS & ~needsReset);
    const isAcceptable =
      (registers.driverFeatures & ~this.offered) === 0n && (registers.driverFeatures & FEATURE_VERSION_1) !== 0n;
    if ((registers.status & featuresOk) === 0 && !isAcceptable) status &= ~featuresOk;
    if ((status & featuresOk) === 0) status &= ~driverOk;
    const isNewlyOk = (status & ~registers.status & driverOk) !== 0;
    registers.status = status;
    if (isNewlyOk) this.#startQueues();
  }

  /** The features that both sides use; 0 until the driver has accepted them. */
  get #accepted(): bigint {
    return (this.#registers.status & DeviceStatus.featuresOk) === 0 ? 0n : this.#registers.driverFeatures;
  }

  #configChanged(): void {
    const registers = this.#registers;
    registers.configGeneration = (registers.configGeneration + 1) >>> 0;
    if ((registers.status & DeviceStatus.driverOk) !== 0) this.interrupt.raise(InterruptBit.configuration);
  }

  #startQueues(): void {
    const { driverOk, needsReset } = DeviceStatus;
    if (!this.#running || (this.#registers.status & (driverOk | needsReset)) !== driverOk) return;
    for (const queue of this.queues) queue.start();
  }

  #reset(): void {
    this.#registers = initialRegisters();
    for (const queue of this.queues) {
      // The device finishes the chains that it has taken, and does not return them to the driver.
      void queue.stop();
      queue.reset();
      Object.assign(queue.registers, { size: QUEUE_SIZE, descriptors: 0n, driverArea: 0n, deviceArea: 0n });
    }
    this.device.reset?.();
    this.interrupt.set(0);
  }

  /** The guest has broken the device (2.1.2): it does nothing more until a reset, and tells a driver that is there. */
  #break(reason: string): void {
    const registers = this.#registers;
    if ((registers.status & DeviceStatus.needsReset) !== 0) return;
    registers.status |= DeviceStatus.needsReset;
    for (const queue of this.queues) void queue.stop();
    if ((registers.status & DeviceStatus.driverOk) !== 0) this.interrupt.raise(InterruptBit.configuration);
    this.#parts.onNeedsReset(this.device.id, reason);
  }
}

function initialRegisters(): TransportRegisters {
  return {
    ...{ status: 0, deviceFeaturesSelect: 0, driverFeaturesSelect: 0, driverFeatures: 0n },
    ...{ queueSelect: 0, configGeneration: 0 },
  };
}

/** The word of a 64-bit number that a select register chooses; 0 for any other value of that register. */
function word(value: bigint, select: number): number {
  return select > 1 ? 0 : Number(BigInt.asUintN(32, value >> BigInt(32 * select)));
}

function withLow(value: bigint, low: number): bigint {
  return ((value >> 32n) << 32n) | BigInt(low >>> 0);
}

function withHigh(value: bigint, high: number): bigint {
  return BigInt.asUintN(32, value) | (BigInt(high >>> 0) << 32n);
}

/** A number in the configuration space; bytes beyond its end are 0. */
function readLittleEndian(bytes: Uint8Array, offset: number, size: number): number {
  let value = 0;
  for (let i = size - 1; i >= 0; i--) value = value * 256 + (bytes[offset + i] ?? 0);
  return value;
}
