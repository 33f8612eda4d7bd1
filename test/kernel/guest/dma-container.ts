import type { KernelPort } from '@godwit/vfio';
import { linuxKernel, Type1, Vfio } from '@godwit/vfio/unstable';
import { DmaDevice } from './dma-device.js';
import { type AssignableDevice, MediatedDevice, type MediatedDeviceType } from './mediated-device.js';
import {
  call,
  cString,
  type Descriptor,
  DirtyPages,
  dirtyPages,
  getBitmapArgument,
  mapDma,
  succeeds,
  u32,
  withAddress,
} from './vfio-calls.js';

interface Options {
  /** Argument of VFIO_SET_IOMMU. Default: TYPE1v2. */
  readonly iommu?: number;
  /** Default: the kernel that this runs on. */
  readonly port?: KernelPort;
}

/**
 * A container with devices in it and nothing mapped. It makes raw calls, with whose results tests compare the package.
 */
export class DmaContainer implements Descriptor {
  readonly port: KernelPort;
  readonly fd: number;
  /** The groups in the order of the devices; null for a group that was taken out. */
  readonly groups: (number | null)[];
  readonly deviceFds: (number | null)[];
  readonly #devices: readonly AssignableDevice[];
  #open = true;

  constructor(devices: readonly (MediatedDeviceType | AssignableDevice)[] = ['godwit-dma'], options: Options = {}) {
    const { iommu = Vfio.VFIO_TYPE1v2_IOMMU, port = linuxKernel } = options;
    this.port = port;
    this.fd = port.open('/dev/vfio/vfio');
    this.#devices = devices.map((device) => (typeof device === 'string' ? new MediatedDevice(device) : device));
    const groups = this.#devices.map(({ group }) => ({ port, fd: port.open(`/dev/vfio/${group}`) }));
    for (const group of groups) {
      succeeds('SET_CONTAINER', call(group, Vfio.VFIO_GROUP_SET_CONTAINER, u32(this.fd)));
    }
    this.groups = groups.map(({ fd }) => fd);
    succeeds('SET_IOMMU', call(this, Vfio.VFIO_SET_IOMMU, iommu));
    this.deviceFds = groups.map((group, i) => {
      const name = cString(this.#devices[i]?.name ?? '');
      return succeeds('GET_DEVICE_FD', call(group, Vfio.VFIO_GROUP_GET_DEVICE_FD, name));
    });
  }

  /** The device of this index, as a file. */
  deviceFile(index: number): Descriptor {
    return { port: this.port, fd: this.deviceFds[index] as number };
  }

  /** The device of this index, which must be a test device. */
  device(index = 0): DmaDevice {
    return new DmaDevice(this.deviceFds[index] as number);
  }

  map(iova: number | bigint, vaddr: bigint, size: number | bigint): void {
    succeeds('MAP_DMA', mapDma(this, { vaddr, iova, size }));
  }

  start(): void {
    succeeds('START', dirtyPages(this, DirtyPages.START));
  }

  stop(): void {
    succeeds('STOP', dirtyPages(this, DirtyPages.STOP));
  }

  /** GET_BITMAP over `pages` pages from `iova` on, into a zeroed bitmap: the numbers of the dirty pages in it. */
  dirty(iova: number | bigint, pages: number): number[] {
    const bitmap = new Uint8Array(Math.ceil(pages / 64) * 8);
    withAddress(bitmap, (data) => {
      const get = getBitmapArgument({ iova, size: pages * 4096, bitmapSize: bitmap.byteLength, data });
      succeeds('GET_BITMAP', call(this, Type1.VFIO_IOMMU_DIRTY_PAGES, get));
    });
    return setBits(bitmap);
  }

  /** Closes the device of this index and its group, which takes the device out of the container. */
  detach(index: number): void {
    for (const fds of [this.deviceFds, this.groups]) {
      this.port.close(fds[index] as number);
      fds[index] = null;
    }
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    for (const fd of [...this.deviceFds, ...this.groups, this.fd]) if (fd !== null) this.port.close(fd);
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
