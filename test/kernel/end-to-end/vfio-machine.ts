import { createHash } from 'node:crypto';
import { readSync, writeSync } from 'node:fs';
import type { DirtyTracker, MigratableVm } from '@godwit/core';
import type { Machine } from '@godwit/example-node-vmm';
import {
  checkMemory,
  decodeBootParams,
  describeDefect,
  guestImage,
  PAGE_SIZE,
  PARAMS_ADDRESS,
} from '@godwit/example-node-vmm/guest';
import {
  chooseTrackers,
  deviceKind,
  Type1Container,
  trackersOf,
  VfioDevice,
  VfioDeviceSet,
  VfioGroup,
  VfioMigratableDevice,
} from '@godwit/vfio';
import { linuxKernel } from '@godwit/vfio/unstable';
import { DmaDevice } from '../guest/dma-device.js';
import { MediatedDevice } from '../guest/mediated-device.js';
import { leaveOutOrder } from '../sequences/order-left-out.js';
import { LateReads } from './late-reads.js';
import { MovingMapping } from './moving-mapping.js';

/** Pages at the end of RAM that the guest never touches: the device's own. */
export const DMA_PAGES = 256 + MovingMapping.PAGES;
/**
 * The first pages of these are pinned and written without the kernel's knowledge; the last ones are reached through the moving
 * mapping.
 */
const PINNED_PAGES = 4;
const WRITTEN_PAGES = DMA_PAGES - MovingMapping.PAGES - PINNED_PAGES;
const DMA_INTERVAL_MS = 5;
/** A port of mtty is an 8250: transmit and receive at 0, line status at 5, its bit 0 is "data ready". */
const UART_DATA = 0;
const UART_LSR = 5;

/**
 * node-vmm's machine with two VFIO devices: the test device, which writes RAM by DMA, and mtty, whose state moves. The guest's
 * vCPU uses neither of them.
 */
export class VfioMachine {
  readonly machine: Machine;
  readonly #group: { readonly dma: VfioGroup; readonly serial: VfioGroup };
  readonly #container: Type1Container;
  readonly #reads = new LateReads(linuxKernel);
  #moving: MovingMapping | undefined;
  readonly #dmaDevice: VfioDevice;
  readonly #serial: VfioDevice;
  readonly #serialState: VfioMigratableDevice;
  readonly #mediated: { readonly dma: MediatedDevice; readonly serial: MediatedDevice };
  readonly #dma: DmaDevice;
  readonly #firstPage: number;
  #timer: NodeJS.Timeout | undefined;
  #writes = 0;

  private constructor(machine: Machine) {
    this.machine = machine;
    this.#mediated = { dma: new MediatedDevice('godwit-dma'), serial: new MediatedDevice('mtty-1') };
    this.#group = {
      dma: VfioGroup.open(this.#mediated.dma.group),
      serial: VfioGroup.open(this.#mediated.serial.group),
    };
    this.#container = Type1Container.open([this.#group.dma, this.#group.serial], this.#reads);
    this.#dmaDevice = VfioDevice.open(this.#group.dma, this.#mediated.dma.name);
    this.#serial = VfioDevice.open(this.#group.serial, this.#mediated.serial.name);
    this.#serialState = new VfioMigratableDevice({
      device: this.#serial,
      id: 'mtty',
      kind: deviceKind(this.#mediated.serial.folder),
    });
    this.#dma = new DmaDevice(this.#dmaDevice.fd);
    this.#firstPage = machine.description.memoryBytes / PAGE_SIZE - DMA_PAGES;
  }

  static async around(machine: Machine): Promise<VfioMachine> {
    const made = new VfioMachine(machine);
    await made.#container.mapMemory(machine.memory);
    return made;
  }

  /** The VM for the engine. `blind` leaves out the tracker that sees DMA, as an embedder might by mistake. */
  async vm(blind: boolean): Promise<MigratableVm> {
    const { machine } = this;
    const space = this.#container;
    const choices = await chooseTrackers(
      [this.#dmaDevice, this.#serial].map((device) => ({ device, space })),
      machine.memory,
    );
    const vfio: readonly DirtyTracker[] = blind ? [] : trackersOf(choices);
    const set = new VfioDeviceSet([this.#serialState]);
    return set.attachTo(
      {
        memory: machine.memory,
        trackers: machine.trackers,
        devices: machine.devices,
        runState: () => machine.runState(),
        prepared: () => machine.prepared(),
        pause: async (signal) => {
          await machine.pause(signal);
          await this.stopDma();
        },
        resume: () => machine.resume(),
        abandon: (reason) => machine.abandon(reason),
      },
      vfio,
    );
  }

  get writes(): number {
    return this.#writes;
  }

  /** The device writes a few of its pages every few milliseconds, with new contents each time. */
  startDma(): void {
    this.#succeeds(this.#dma.pin(this.#firstPage * PAGE_SIZE, PINNED_PAGES));
    this.#timer = setInterval(() => {
      const count = ++this.#writes;
      const bytes = new Uint8Array(new Uint32Array([count, ~count]).buffer);
      const page = PINNED_PAGES + ((count * 7) % WRITTEN_PAGES);
      this.#succeeds(this.#dma.write((this.#firstPage + page) * PAGE_SIZE + (count % 4000), bytes));
      const pinned = this.#firstPage + (count % PINNED_PAGES);
      this.#succeeds(this.#dma.writePinned(pinned * PAGE_SIZE + 8, bytes));
      this.#moving?.write(bytes);
    }, DMA_INTERVAL_MS);
  }

  /**
   * Starts to move a mapping over the last of the device's pages, as with a guest's own virtual IOMMU, while the device writes
   * through it. From now on every read of a dirty log is late: the mapping moves before it.
   */
  async startMoving(ordered: boolean): Promise<void> {
    if (!ordered) leaveOutOrder(this.#container);
    const { hostAddress } = this.machine.memory.blocks[0] as { readonly hostAddress: bigint };
    const first = (this.#firstPage + DMA_PAGES - MovingMapping.PAGES) * PAGE_SIZE;
    const moving = new MovingMapping(this.#container, this.#dma, first, hostAddress + BigInt(first));
    await moving.start();
    this.#moving = moving;
    this.#reads.before = () => moving.movedAndWritten();
  }

  get moves(): number {
    return this.#moving?.moves ?? 0;
  }

  async stopDma(): Promise<void> {
    clearInterval(this.#timer);
    await this.#moving?.stop();
    if (this.#timer !== undefined) this.#succeeds(this.#dma.unpin(this.#firstPage * PAGE_SIZE, PINNED_PAGES));
    this.#timer = undefined;
  }

  /** The digest of the pages that only the device writes. */
  dmaDigest(): string {
    return createHash('sha256')
      .update(this.machine.ram.view(this.#firstPage * PAGE_SIZE, DMA_PAGES * PAGE_SIZE))
      .digest('hex');
  }

  /** Writes to mtty, which receives its own output. */
  type(text: string): void {
    const { offset } = this.#serial.region(0);
    for (const byte of new TextEncoder().encode(text))
      writeSync(this.#serial.fd, Uint8Array.of(byte), 0, 1, offset + UART_DATA);
  }

  /** All text that mtty has received. */
  answer(): string {
    const { offset } = this.#serial.region(0);
    const byte = new Uint8Array(1);
    const received: number[] = [];
    for (;;) {
      readSync(this.#serial.fd, byte, 0, 1, offset + UART_LSR);
      if (((byte[0] as number) & 1) === 0) return String.fromCharCode(...received);
      readSync(this.#serial.fd, byte, 0, 1, offset + UART_DATA);
      received.push(byte[0] as number);
    }
  }

  /** Pauses the guest and checks every page that the guest writes. Returns what is wrong, in words. */
  async check(): Promise<{ readonly pages: number; readonly defects: readonly string[] }> {
    const { machine } = this;
    await machine.pause();
    const params = decodeBootParams(machine.ram.view(PARAMS_ADDRESS, PAGE_SIZE));
    const report = checkMemory(machine.ram, params, { image: guestImage() });
    return { pages: report.pages, defects: report.defects.map(describeDefect) };
  }

  async close(): Promise<void> {
    await this.stopDma();
    this.#serial.close();
    this.#dmaDevice.close();
    this.#container.close();
    this.#group.dma.close();
    this.#group.serial.close();
    await this.machine.close();
    this.#mediated.dma.remove();
    this.#mediated.serial.remove();
  }

  #succeeds(result: number): void {
    if (result < 0) throw new Error(`the test device failed with errno ${-result}`);
  }
}
