import { closeFd, errnoName, openFile, tryIoctl } from '@godwit/linux';
import { DmaDevice } from './dma-device.js';
import { type AssignableDevice, MediatedDevice, type MediatedDeviceType } from './mediated-device.js';
import {
  DirtyPages,
  dirtyPages,
  getBitmapArgument,
  IommuType,
  mapDma,
  u32,
  VfioRequest,
  withAddress,
} from './vfio-calls.js';

/** Text with the NUL that ends it in C. */
export function cString(text: string): Uint8Array {
  return new TextEncoder().encode(`${text}\0`);
}

/** The result of a call that must not fail in the test at hand. */
export function succeeds(what: string, result: number): number {
  if (result < 0) throw new Error(`${what} failed with ${errnoName(-result)}`);
  return result;
}

/** A container with devices in it and nothing mapped. Made by raw calls: it is what tests compare with. */
export class DmaContainer {
  readonly fd: number;
  readonly groups: readonly number[];
  readonly deviceFds: readonly number[];
  readonly #devices: readonly AssignableDevice[];
  #open = true;

  constructor(
    devices: readonly (MediatedDeviceType | AssignableDevice)[] = ['godwit-dma'],
    iommu: number = IommuType.TYPE1v2,
  ) {
    this.fd = openFile('/dev/vfio/vfio');
    this.#devices = devices.map((device) => (typeof device === 'string' ? new MediatedDevice(device) : device));
    this.groups = this.#devices.map(({ group }) => openFile(`/dev/vfio/${group}`));
    for (const group of this.groups) {
      succeeds('SET_CONTAINER', tryIoctl(group, VfioRequest.GROUP_SET_CONTAINER, u32(this.fd)));
    }
    succeeds('SET_IOMMU', tryIoctl(this.fd, VfioRequest.SET_IOMMU, iommu));
    this.deviceFds = this.#devices.map(({ name }, i) =>
      succeeds('GET_DEVICE_FD', tryIoctl(this.groups[i] as number, VfioRequest.GROUP_GET_DEVICE_FD, cString(name))),
    );
  }

  /** The test device of this index; of a type that is one. */
  device(index = 0): DmaDevice {
    return new DmaDevice(this.deviceFds[index] as number);
  }

  map(iova: number | bigint, vaddr: bigint, size: number | bigint): void {
    succeeds('MAP_DMA', mapDma(this.fd, { vaddr, iova, size }));
  }

  start(): void {
    succeeds('START', dirtyPages(this.fd, DirtyPages.START));
  }

  stop(): void {
    succeeds('STOP', dirtyPages(this.fd, DirtyPages.STOP));
  }

  /** GET_BITMAP over `pages` pages from `iova` on, into a zeroed bitmap: the numbers of the dirty pages in it. */
  dirty(iova: number | bigint, pages: number): number[] {
    const bitmap = new Uint8Array(Math.ceil(pages / 64) * 8);
    withAddress(bitmap, (data) => {
      const get = getBitmapArgument({ iova, size: pages * 4096, bitmapSize: bitmap.byteLength, data });
      succeeds('GET_BITMAP', tryIoctl(this.fd, VfioRequest.IOMMU_DIRTY_PAGES, get));
    });
    return setBits(bitmap);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    for (const fd of [...this.deviceFds, ...this.groups, this.fd]) closeFd(fd);
    for (const device of this.#devices) device.remove();
  }
}

/** The numbers of the set bits. */
export function setBits(bitmap: Uint8Array): number[] {
  const found: number[] = [];
  for (let bit = 0; bit < bitmap.byteLength * 8; bit++) {
    if (((bitmap[bit >> 3] as number) >> (bit & 7)) & 1) found.push(bit);
  }
  return found;
}
