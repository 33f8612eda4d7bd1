import { GodwitError, type MigratableDevice } from '@godwit/core';
import { requireVersion, StateReader, StateWriter, stateBytesOf } from '../state/state-sections.js';
import type { MmioTransport, TransportRegisters } from './mmio-transport.js';
import { emptyQueue, type QueueRegisters } from './split-queue.js';
import { DeviceStatus, KNOWN_STATUS } from './virtio-numbers.js';

/** status, the two feature selectors, queue selector, config generation, interrupt status: u32; driver features: u64. */
const REGISTERS_BYTES = 32;
/** size, ready: u32; descriptors, driver area, device area: u64; next available, next used: u32. */
const QUEUE_BYTES = 40;

/**
 * The state of a virtio device and its transport, for a migration. It is saved and loaded only while the machine is paused: the device then
 * works on no chain, so that all unanswered requests of the driver are in the queue, which moves with the memory.
 */
export class TransportState implements MigratableDevice {
  readonly id: string;
  readonly version: number;
  readonly maximumStateBytes: number;
  readonly #transport: MmioTransport;

  constructor(transport: MmioTransport) {
    const { device, queues } = transport;
    this.#transport = transport;
    this.id = device.id;
    this.version = device.version;
    const own = Object.values(device.sections);
    this.maximumStateBytes = stateBytesOf(REGISTERS_BYTES, queues.length * QUEUE_BYTES, ...own);
  }

  async *save(): AsyncIterable<Uint8Array> {
    const { device, queues, registers, interrupt } = this.#transport;
    const writer = new StateWriter();
    writer.section('MMIO', encodeRegisters(registers, interrupt.status));
    writer.section('QUEU', Buffer.concat(queues.map((queue) => encodeQueue(queue.registers))));
    device.save?.(writer);
    yield writer.finish();
  }

  /**
   * @throws GodwitError GODWIT_DEVICE_FAILED for bytes that are not such a state, GODWIT_UNSUPPORTED when the driver has accepted a feature
   * that the device does not offer here
   */
  async load(state: AsyncIterable<Uint8Array>, version: number): Promise<void> {
    const { device, queues, offered } = this.#transport;
    requireVersion(this.id, version, this.version);
    const reader = await StateReader.read(this.id, state, ['MMIO', 'QUEU', ...Object.keys(device.sections)]);
    const view = new DataView(reader.required('MMIO', REGISTERS_BYTES).buffer);
    const registers = decodeRegisters(view);
    const interruptStatus = view.getUint32(20, true);
    if ((registers.status & ~KNOWN_STATUS) !== 0 || (interruptStatus & ~3) !== 0) {
      throw this.#refused(
        `status ${registers.status} and interrupt status ${interruptStatus} have bits that are unknown`,
      );
    }
    const missing = registers.driverFeatures & ~offered;
    if ((registers.status & DeviceStatus.featuresOk) !== 0 && missing !== 0n) {
      throw new GodwitError(
        'GODWIT_UNSUPPORTED',
        `the guest's driver of ${this.id} uses features 0x${missing.toString(16)}, which the device does not offer here`,
      );
    }
    const bytes = reader.required('QUEU', queues.length * QUEUE_BYTES);
    const loaded = queues.map((_, i) => decodeQueue(new DataView(bytes.buffer, i * QUEUE_BYTES, QUEUE_BYTES)));
    device.load?.(reader);
    this.#transport.restore(registers, loaded, interruptStatus);
  }

  /** Returns no pages: a queue in guest memory comes with the memory. */
  loadWrites(): readonly [] {
    return [];
  }

  #refused(why: string): GodwitError {
    return new GodwitError('GODWIT_DEVICE_FAILED', `the state of ${this.id} cannot be loaded: ${why}`);
  }
}

function encodeRegisters(registers: TransportRegisters, interruptStatus: number): Uint8Array {
  const bytes = new Uint8Array(REGISTERS_BYTES);
  const view = new DataView(bytes.buffer);
  const { status, deviceFeaturesSelect, driverFeaturesSelect, queueSelect, configGeneration } = registers;
  [status, deviceFeaturesSelect, driverFeaturesSelect, queueSelect, configGeneration, interruptStatus].forEach(
    (value, i) => {
      view.setUint32(4 * i, value, true);
    },
  );
  view.setBigUint64(24, registers.driverFeatures, true);
  return bytes;
}

function decodeRegisters(view: DataView): TransportRegisters {
  const number = (i: number): number => view.getUint32(4 * i, true);
  return {
    ...{ status: number(0), deviceFeaturesSelect: number(1), driverFeaturesSelect: number(2) },
    ...{ queueSelect: number(3), configGeneration: number(4), driverFeatures: view.getBigUint64(24, true) },
  };
}

function encodeQueue(queue: QueueRegisters): Uint8Array {
  const bytes = new Uint8Array(QUEUE_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, queue.size, true);
  view.setUint32(4, queue.ready ? 1 : 0, true);
  view.setBigUint64(8, queue.descriptors, true);
  view.setBigUint64(16, queue.driverArea, true);
  view.setBigUint64(24, queue.deviceArea, true);
  view.setUint32(32, queue.nextAvailable, true);
  view.setUint32(36, queue.nextUsed, true);
  return bytes;
}

function decodeQueue(view: DataView): QueueRegisters {
  return {
    ...emptyQueue(view.getUint32(0, true)),
    ready: view.getUint32(4, true) !== 0,
    descriptors: view.getBigUint64(8, true),
    driverArea: view.getBigUint64(16, true),
    deviceArea: view.getBigUint64(24, true),
    nextAvailable: view.getUint32(32, true) & 0xffff,
    nextUsed: view.getUint32(36, true) & 0xffff,
  };
}
