import { readSync, writeSync } from 'node:fs';
import type { MigratableVm } from '@godwit/core';
import { createGuestMemory, type MappedGuestMemory } from '@godwit/linux';
import {
  chooseTrackers,
  deviceKind,
  iommuGroupOf,
  Type1Container,
  trackersOf,
  VfioDevice,
  VfioDeviceSet,
  VfioGroup,
  VfioMigratableDevice,
} from '@godwit/vfio';
import { MediatedDevice, type MediatedDeviceType } from './mediated-device.js';

/** drivers/tty: transmit and receive register, and the line status with its "data ready" bit. */
const UART_DATA = 0;
const UART_LSR = 5;
const DATA_READY = 1;

/** A VM whose only device is mtty, the kernel's sample of a migratable device: a serial port in loopback. */
export class MttyVm {
  readonly memory: MappedGuestMemory;
  readonly set: VfioDeviceSet;
  readonly device: VfioDevice;
  readonly migratable: VfioMigratableDevice;
  readonly container: Type1Container;
  running: boolean;
  readonly #group: VfioGroup;
  readonly #mediated: MediatedDevice;

  constructor(running: boolean, type: MediatedDeviceType = 'mtty-1', id = 'serial') {
    this.running = running;
    this.#mediated = new MediatedDevice(type);
    this.#group = VfioGroup.open(iommuGroupOf(this.#mediated.folder));
    this.container = Type1Container.open([this.#group]);
    this.device = VfioDevice.open(this.#group, this.#mediated.name);
    this.migratable = new VfioMigratableDevice({
      device: this.device,
      id,
      kind: deviceKind(this.#mediated.folder),
    });
    this.set = new VfioDeviceSet([this.migratable]);
    this.memory = createGuestMemory({ blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 2 ** 20 }] });
  }

  /** The VM for the engine. */
  async vm(trackDuringPrecopy = true): Promise<MigratableVm> {
    await this.container.mapMemory(this.memory);
    const choices = await chooseTrackers(
      [{ device: this.device, space: this.container, trackDuringPrecopy }],
      this.memory,
    );
    return this.set.attachTo({
      memory: this.memory,
      trackers: trackersOf(choices),
      devices: [],
      pause: async () => {
        this.running = false;
      },
      resume: async () => {
        this.running = true;
      },
    });
  }

  type(text: string): void {
    const { offset } = this.device.region(0);
    for (const byte of new TextEncoder().encode(text)) {
      writeSync(this.device.fd, Uint8Array.of(byte), 0, 1, offset + UART_DATA);
    }
  }

  /** All text that the port has received. */
  answer(): string {
    const { offset } = this.device.region(0);
    const byte = new Uint8Array(1);
    const received: number[] = [];
    for (;;) {
      readSync(this.device.fd, byte, 0, 1, offset + UART_LSR);
      if (((byte[0] as number) & DATA_READY) === 0) return String.fromCharCode(...received);
      readSync(this.device.fd, byte, 0, 1, offset + UART_DATA);
      received.push(byte[0] as number);
    }
  }

  /** Resets the port, as the guest would: the device forgets its state, and runs. */
  reset(): Promise<void> {
    return this.device.reset();
  }

  async close(): Promise<void> {
    await this.device.closeAsync();
    this.container.close();
    this.#group.close();
    this.memory.close();
    this.#mediated.remove();
  }
}
