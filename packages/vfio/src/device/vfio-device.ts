import { readFileSync, readlinkSync } from 'node:fs';
import { basename, join } from 'node:path';
import { GodwitError } from '@godwit/core';
import { Errno, StructBuffer } from '@godwit/linux/unstable';
import { Descriptor } from '../descriptor.js';
import { type KernelPort, linuxKernel } from '../kernel-port.js';
import { VFIO_DEVICE_INFO, VFIO_REGION_INFO, Vfio } from '../layouts/vfio-setup.js';
import { succeeded } from '../syscall-result.js';
import type { VfioGroup } from '../type1/vfio-group.js';
import { DevicePort } from './device-port.js';
import { resetWhenFree } from './device-reset.js';

/** VFIO's information about a device (VFIO_DEVICE_GET_INFO). */
export interface VfioDeviceInfo {
  readonly resettable: boolean;
  readonly pci: boolean;
  readonly regionCount: number;
  readonly interruptCount: number;
}

/** A BAR, the configuration space, or a region specific to the device. Read and written at `offset` of the device's fd. */
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

/**
 * A device that is assigned to this process.
 *
 * @example
 * const device = await VfioDevice.openAsync(group, '0000:01:00.0');
 * await device.reset();
 * await device.closeAsync();
 */
export class VfioDevice {
  /** The name as in sysfs. */
  readonly name: string;
  /**
   * Makes the calls on the device and on the descriptors of its state: they are made again when a signal interrupts them, and refused
   * once the device is closed.
   */
  readonly port: KernelPort;
  readonly #descriptor: Descriptor;

  private constructor(name: string, fd: number, owned: boolean, port: KernelPort) {
    this.name = name;
    this.#descriptor = new Descriptor(port, fd, `device ${name}`, owned);
    this.port = new DevicePort(port, this.#descriptor);
  }

  /** Its descriptor. */
  get fd(): number {
    return this.#descriptor.fd;
  }

  /**
   * A device of a group that is in a container with an IOMMU; see `VfioGroup.deviceFd` for errors. The event loop is blocked until the
   * device is open, which may include a reset; with `openAsync` it is not.
   */
  static open(group: VfioGroup, name: string, port: KernelPort = linuxKernel): VfioDevice {
    return new VfioDevice(name, group.deviceFd(name), true, port);
  }

  /** `open` on a pool thread. */
  static async openAsync(group: VfioGroup, name: string, port: KernelPort = linuxKernel): Promise<VfioDevice> {
    return new VfioDevice(name, await group.deviceFdAsync(name), true, port);
  }

  /** Takes a device that the embedder has already opened, and that keeps owning `fd`. */
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

  /**
   * VFIO_DEVICE_RESET, on a pool thread: the device forgets its state, and runs. Drivers that do not advertise a reset may support it
   * nevertheless. While the device's lock is held elsewhere (EAGAIN) the reset is tried again, for half a second.
   *
   * @throws SyscallError GODWIT_UNSUPPORTED when its driver cannot reset it, GODWIT_DEVICE_BUSY when the lock is held for longer
   */
  async reset(): Promise<void> {
    const result = await resetWhenFree(() => this.port.ioctlAsync(this.fd, Vfio.VFIO_DEVICE_RESET));
    succeeded(result, 'VFIO_DEVICE_RESET', `of ${this.name}`, {
      [Errno.ENOTTY]: { code: 'GODWIT_UNSUPPORTED', advice: 'its driver cannot reset it' },
      [Errno.EAGAIN]: {
        code: 'GODWIT_DEVICE_BUSY',
        advice:
          'something else holds the lock of the device or its bus (a driver that is bound, a recovery from errors); try again',
      },
    });
  }

  /**
   * Idempotent. The device is closed when this returns, or when the calls under way are over. An adopted descriptor is not closed. The
   * event loop is blocked while the driver closes the device, which may include a reset; with `closeAsync` it is not.
   */
  close(): void {
    this.#descriptor.close();
  }

  /** `close` on a pool thread. Resolves when the device is closed. */
  closeAsync(): Promise<void> {
    return this.#descriptor.closeAsync();
  }

  #ask(request: number, argument: Uint8Array, name: string): void {
    succeeded(this.port.ioctl(this.fd, request, argument), name, `on ${this.name}`);
  }
}

/**
 * The kind of a device, in a word that both ends can compare: `pci:8086:1572`, `mdev:mtty-2`. A device can only load the state of its
 * own kind.
 *
 * @param folder the device's folder in sysfs
 * @throws GodwitError GODWIT_UNSUPPORTED when sysfs does not have it
 * @example
 * deviceKind('/sys/bus/pci/devices/0000:01:00.0'); // 'pci:8086:1572'
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
