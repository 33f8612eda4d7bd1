import { DirtyBitmaps, type MigratableDevice, SoftwareTracker } from '@godwit/core';
import { createGuestMemory, type MappedGuestMemory } from '@godwit/linux';
import { SharedBoard } from '../../dist/vcpu/shared-board.js';
import { DeviceMemory } from '../../dist/virtio/device-memory.js';
import { InterruptLine } from '../../dist/virtio/interrupt-line.js';
import { MmioTransport } from '../../dist/virtio/mmio-transport.js';
import { TransportState } from '../../dist/virtio/transport-state.js';
import type { VirtioDevice } from '../../dist/virtio/virtio-device.js';
import { VirtioWords } from '../../dist/virtio/virtio-words.js';
import { FakeDriver } from './fake-driver.js';

export const MEMORY_BYTES = 32 * 2 ** 20;
const PAGE = 4096;

/** A device behind its transport, with memory, a tracker, and a driver; all are what a machine has. */
export class MadeDevice {
  readonly memory: MappedGuestMemory;
  readonly tracker: SoftwareTracker;
  readonly transport: MmioTransport;
  readonly state: MigratableDevice;
  readonly driver: FakeDriver;
  /** Every level that the interrupt line was given. */
  readonly levels: boolean[] = [];
  /** Why the device needs a reset, each time it does. */
  readonly broken: string[] = [];
  #changed: () => void = () => {};

  constructor(device: VirtioDevice, memory = newMemory()) {
    this.memory = memory;
    this.tracker = new SoftwareTracker(memory, 'virtio');
    const interrupt = new InterruptLine(new VirtioWords(new SharedBoard().virtio), 0, (high) => {
      this.levels.push(high);
      this.#changed();
    });
    this.transport = new MmioTransport(device, {
      memory: new DeviceMemory(memory, this.tracker),
      interrupt,
      onNeedsReset: (_, reason) => {
        this.broken.push(reason);
        this.#changed();
      },
    });
    this.state = new TransportState(this.transport);
    this.driver = new FakeDriver(
      {
        read: (offset, size) => this.transport.read(offset, size),
        write: (offset, size, value) => this.transport.write(offset, size, value),
      },
      (address, byteLength) => this.view(address, byteLength),
      { base: 0x10_0000, queues: device.queues.length },
    );
  }

  view(address: number, byteLength: number): Uint8Array {
    return (this.memory.blocks[0] as (typeof this.memory.blocks)[0]).view(address, byteLength);
  }

  /** A device whose driver has come as far as it can, in a machine that runs. */
  static running(device: VirtioDevice): MadeDevice {
    const made = new MadeDevice(device);
    made.transport.start();
    made.driver.initialize();
    return made;
  }

  /** Resolves when the device has given back so many chains of a queue since the last call. */
  async used(count: number, queue = 0): Promise<{ head: number; written: Uint8Array }[]> {
    const all: { head: number; written: Uint8Array }[] = [];
    for (;;) {
      // The line changes for the next chain only if it is low.
      this.transport.interrupt.acknowledge(3);
      all.push(...(this.driver.queues[queue]?.takeUsed() ?? []));
      if (all.length >= count) return all;
      await this.changed();
    }
  }

  /** Resolves when the interrupt line changes, or the device breaks. */
  changed(): Promise<void> {
    return new Promise((resolve) => {
      this.#changed = resolve;
    });
  }

  /** Numbers of the pages that were marked since the last call; the tracker has to run. */
  async marked(): Promise<number[]> {
    const bitmaps = new DirtyBitmaps(this.memory);
    await this.tracker.harvest(bitmaps);
    const bitmap = bitmaps.at(0);
    return Array.from({ length: bitmap.pageCount }, (_, page) => page).filter((page) => bitmap.has(page));
  }

  async close(): Promise<void> {
    await this.transport.stop();
    await this.transport.device.close?.();
    this.memory.close();
  }
}

export function pageOf(address: number): number {
  return Math.floor(address / PAGE);
}

function newMemory(): MappedGuestMemory {
  return createGuestMemory({ blocks: [{ id: 'ram-low', guestPhysicalAddress: 0, byteLength: MEMORY_BYTES }] });
}
