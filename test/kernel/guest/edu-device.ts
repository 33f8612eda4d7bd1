import { readdirSync, readFileSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { MapFlags, mmap, munmap, tryIoctl, viewOf } from '@godwit/linux/unstable';
import { Vfio } from '@godwit/vfio/unstable';
import { AssignedPciDevice, PCI_DEVICES } from './pci-device.js';
import { packed, succeeds, u32, u64 } from './vfio-calls.js';

/** QEMU's docs/specs/edu: the vendor and device ID, as sysfs writes them. */
const EDU_ID = '0x1234:0x11e8';

/** QEMU's `edu` device, given to vfio-pci. The device is behind the emulated IOMMU, alone in its group. */
export class EduPciDevice extends AssignedPciDevice {
  /** @param index the test machine has two */
  constructor(index = 0) {
    const found = readdirSync(PCI_DEVICES)
      .sort()
      .filter((name) => idOf(name) === EDU_ID);
    const name = found[index];
    if (name === undefined)
      throw new Error(`this machine has ${found.length} edu devices, number ${index} was asked for`);
    super(name);
  }
}

function idOf(name: string): string {
  const read = (file: string): string => readFileSync(join(PCI_DEVICES, name, file), 'utf8').trim();
  return `${read('vendor')}:${read('device')}`;
}

/** linux/vfio.h, enum of the PCI regions. */
const BAR0_REGION = 0;
const CONFIG_REGION = 7;
/** linux/pci_regs.h */
const PCI_COMMAND = 4;
const PCI_COMMAND_MEMORY = 2;
const PCI_COMMAND_MASTER = 4;
/** docs/specs/edu: registers of the DMA engine, in 32-bit words, and its buffer of 4096 bytes. */
const DMA_SOURCE = 0x80 / 4;
const DMA_DESTINATION = 0x88 / 4;
const DMA_COUNT = 0x90 / 4;
const DMA_COMMAND = 0x98 / 4;
const DMA_START = 1;
const DMA_TO_MEMORY = 2;
const DMA_BUFFER = 0x4_0000;

/**
 * The DMA engine of an `edu` device, driven through its VFIO device file. The engine reaches the lowest 256 MiB of
 * IOVAs.
 */
export class EduDmaEngine {
  readonly #address: bigint;
  readonly #byteLength: number;
  readonly #registers: Uint32Array;

  /** @param fd its VFIO device file; stays the caller's */
  constructor(fd: number) {
    const command = new Uint8Array(2);
    const at = regionOf(fd, CONFIG_REGION).offset + PCI_COMMAND;
    readSync(fd, command, 0, 2, at);
    command[0] = (command[0] as number) | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
    writeSync(fd, command, 0, 2, at);
    const bar = regionOf(fd, BAR0_REGION);
    this.#byteLength = bar.size;
    this.#address = mmap({ byteLength: bar.size, flags: MapFlags.MAP_SHARED, fd, offset: bar.offset });
    const bytes = viewOf(this.#address, bar.size);
    this.#registers = new Uint32Array(bytes.buffer, bytes.byteOffset, bar.size / 4);
  }

  /** Copies memory at `from` into the device's buffer and from there to `to`; at most 4096 bytes. */
  async copy(from: number, to: number, byteLength: number): Promise<void> {
    await this.#run(from, DMA_BUFFER, byteLength, DMA_START);
    await this.#run(DMA_BUFFER, to, byteLength, DMA_START | DMA_TO_MEMORY);
  }

  close(): void {
    munmap(this.#address, this.#byteLength);
  }

  async #run(source: number, destination: number, count: number, command: number): Promise<void> {
    const registers = this.#registers;
    registers[DMA_SOURCE] = source;
    registers[DMA_DESTINATION] = destination;
    registers[DMA_COUNT] = count;
    registers[DMA_COMMAND] = command;
    // The device signals the end only by this bit or an interrupt. A transfer takes 100 ms of the machine's time.
    while (((registers[DMA_COMMAND] as number) & DMA_START) !== 0) await sleep(10);
  }
}

/** VFIO_DEVICE_GET_REGION_INFO: struct vfio_region_info, 32 bytes. */
function regionOf(fd: number, index: number): { readonly size: number; readonly offset: number } {
  const info = packed(u32(32, 0, index, 0), u64(0, 0));
  succeeds('GET_REGION_INFO', tryIoctl(fd, Vfio.VFIO_DEVICE_GET_REGION_INFO, info));
  const view = new DataView(info.buffer);
  return { size: Number(view.getBigUint64(16, true)), offset: Number(view.getBigUint64(24, true)) };
}
