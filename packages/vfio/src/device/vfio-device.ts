import { readFileSync, readlinkSync } from 'node:fs';
import { basename, join } from 'node:path';
import { GodwitError } from '@godwit/core';
import { Errno, StructBuffer } from '@godwit/linux';
import { type KernelPort, linuxKernel } from '../kernel-port.js';
import { VFIO_DEVICE_INFO, VFIO_REGION_INFO, Vfio } from '../layouts/vfio-setup.js';
import { succeeded } from '../syscall-result.js';
import type { VfioGroup } from '../type1/vfio-group.js';

export interface VfioDeviceInfo {
  readonly resettable: boolean;
  readonly pci: boolean;
  readonly regionCount: number;
  readonly interruptCount: number;
}

/** A BAR, the configuration space, or something of the device's own. Read and written at `offset` of the device's fd. */
export interface VfioRegion {
  readonly index: number;
  /** Bytes; 0 when the device does not have it. */
  readonly byteLength: number;
  /** Bytes into the device's file; regions are far apart, beyond 2^40. */
  readonly offset: number;
  readonly readable: boolean;
  readonly writable: boolean;
  readonly mappable: boolean;
}

/** A device that was assigned to this process. */
export class VfioDevice {
  /** As in sysfs. */
  readonly name: string;
  readonly fd: number;
  readonly port: KernelPort;
  readonly #owned: boolean;
  #open = true;

  private constructor(name: string, fd: number, owned: boolean, port: KernelPort) {
    this.name = name;
    this.fd = fd;
    this.port = port;
    this.#owned = owned;
  }

  /** A device of a group that is in a container with an IOMMU; see `VfioGroup.deviceFd` for errors. */
  static open(group: VfioGroup, name: string, port: KernelPort = linuxKernel): VfioDevice {
    return new VfioDevice(name, group.deviceFd(name), true, port);
  }

  /** A device that the embedder has open already; `fd` stays its own. */
  static adopt(fd: number, name: string, port: KernelPort = linuxKernel): VfioDevice {
    return new VfioDevice(name, fd, false, port);
  }

  /** VFIO_DEVICE_GET_INFO. */
  info(): VfioDeviceInfo {
    const info = new StructBuffer(VFIO_DEVICE_INFO).set('argsz', VFIO_DEVICE_INFO.size);
    this.#ask(Vfio.VFIO_DEVICE_GET_INFO, info.bytes, 'VFIO_DEVICE_GET_INFO');
    const flags = info.get('flags');
    return {
      resettable: (flags & Vfio.VFIO_DEVICE_FLAGS_RESET) !== 0,
      pci: (flags & Vfio.VFIO_DEVICE_FLAGS_PCI) !== 0,
      regionCount: info.get('num_regions'),
      interruptCount: info.get('num_irqs'),
    };
  }

  /** VFIO_DEVICE_GET_REGION_INFO. */
  region(index: number): VfioRegion {
    const info = new StructBuffer(VFIO_REGION_INFO).set('argsz', VFIO_REGION_INFO.size).set('index', index);
    this.#ask(Vfio.VFIO_DEVICE_GET_REGION_INFO, info.bytes, 'VFIO_DEVICE_GET_REGION_INFO');
    const flags = info.get('flags');
    return {
      index,
      byteLength: info.get('size'),
      offset: info.get('offset'),
      readable: (flags & Vfio.VFIO_REGION_INFO_FLAG_READ) !== 0,
      writable: (flags & Vfio.VFIO_REGION_INFO_FLAG_WRITE) !== 0,
      mappable: (flags & Vfio.VFIO_REGION_INFO_FLAG_MMAP) !== 0,
    };
  }

  /** VFIO_DEVICE_RESET: the device forgets its state. Drivers that do not advertise it may do it all the same. */
  async reset(): Promise<void> {
    const result = await this.port.ioctlAsync(this.fd, Vfio.VFIO_DEVICE_RESET);
    succeeded(result, 'VFIO_DEVICE_RESET', `of ${this.name}`, {
      [Errno.ENOTTY]: { code: 'GODWIT_UNSUPPORTED', advice: 'its driver cannot reset it' },
    });
  }

  /** Idempotent. Leaves an adopted descriptor alone. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    if (this.#owned) this.port.close(this.fd);
  }

  #ask(request: number, argument: Uint8Array, name: string): void {
    succeeded(this.port.ioctl(this.fd, request, argument), name, `on ${this.name}`);
  }
}

/**
 * What a device is, in a word that both ends can compare: `pci:8086:1572`, `mdev:mtty-2`. State of one kind of device means
 * nothing to another.
 *
 * @param folder the device's folder in sysfs
 * @throws GodwitError GODWIT_UNSUPPORTED when sysfs does not say
 */
export function deviceKind(folder: string): string {
  try {
    return `mdev:${basename(readlinkSync(join(folder, 'mdev_type')))}`;
  } catch {
    // Not a mediated device.
  }
  try {
    const id = (file: string) => readFileSync(join(folder, file), 'utf8').trim().replace(/^0x/, '');
    return `pci:${id('vendor')}:${id('device')}`;
  } catch (cause) {
    throw new GodwitError(
      'GODWIT_UNSUPPORTED',
      `${folder} is neither a mediated nor a PCI device: name its kind yourself`,
      {
        cause,
      },
    );
  }
}
