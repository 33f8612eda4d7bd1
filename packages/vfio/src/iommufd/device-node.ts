import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { GodwitError } from '@godwit/core';
import { Errno, StructBuffer } from '@godwit/linux';
import { VfioDevice } from '../device/vfio-device.js';
import { type KernelPort, linuxKernel } from '../kernel-port.js';
import {
  DeviceNodeRequest,
  VFIO_DEVICE_ATTACH_IOMMUFD_PT,
  VFIO_DEVICE_BIND_IOMMUFD,
  VFIO_DEVICE_DETACH_IOMMUFD_PT,
} from '../layouts/iommufd.js';
import { succeeded } from '../syscall-result.js';
import type { HardwarePagetable } from './hardware-pagetable.js';
import type { Ioas } from './ioas.js';
import type { Iommufd } from './iommufd.js';

const TAKEN = { code: 'GODWIT_DEVICE_BUSY', advice: 'somebody has the device or its group open' } as const;

/** A device by its own node, /dev/vfio/devices/vfioN (Linux 6.6), bound to an iommufd. */
export class VfioDeviceNode {
  readonly device: VfioDevice;
  /** Its number in the iommufd. */
  readonly deviceId: number;
  readonly #port: KernelPort;

  private constructor(device: VfioDevice, deviceId: number, port: KernelPort) {
    this.device = device;
    this.deviceId = deviceId;
    this.#port = port;
  }

  /**
   * Opens a device and binds it; until then the kernel lets nobody use it.
   *
   * @param folder the device's folder in sysfs, as for `iommuGroupOf`
   * @throws GodwitError GODWIT_UNSUPPORTED when it has no node (CONFIG_VFIO_DEVICE_CDEV), GODWIT_DEVICE_BUSY
   */
  static open(folder: string, name: string, iommufd: Iommufd, port: KernelPort = linuxKernel): VfioDeviceNode {
    const fd = port.open(join('/dev/vfio/devices', nodeOf(folder)));
    try {
      const bind = new StructBuffer(VFIO_DEVICE_BIND_IOMMUFD)
        .set('argsz', VFIO_DEVICE_BIND_IOMMUFD.size)
        .set('iommufd', iommufd.fd);
      const result = port.ioctl(fd, DeviceNodeRequest.VFIO_DEVICE_BIND_IOMMUFD, bind.bytes);
      succeeded(result, 'VFIO_DEVICE_BIND_IOMMUFD', `of ${name}`, {
        // EINVAL is what Linux 6.12 says when somebody has the node open, and nothing else is wrong with the call.
        [Errno.EBUSY]: TAKEN,
        [Errno.EINVAL]: TAKEN,
      });
      return new VfioDeviceNode(VfioDevice.adopt(fd, name, port), bind.get('out_devid'), port);
    } catch (error) {
      port.close(fd);
      throw error;
    }
  }

  /** Puts the device into an address space, or behind a page table of it that logs. Replaces what it was attached to. */
  attach(to: Ioas | HardwarePagetable): void {
    const attach = new StructBuffer(VFIO_DEVICE_ATTACH_IOMMUFD_PT)
      .set('argsz', VFIO_DEVICE_ATTACH_IOMMUFD_PT.size)
      .set('pt_id', to.id);
    const result = this.#port.ioctl(this.device.fd, DeviceNodeRequest.VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach.bytes);
    succeeded(result, 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', `of ${this.device.name} to ${to.id}`);
  }

  detach(): void {
    const detach = new StructBuffer(VFIO_DEVICE_DETACH_IOMMUFD_PT).set('argsz', VFIO_DEVICE_DETACH_IOMMUFD_PT.size);
    const result = this.#port.ioctl(this.device.fd, DeviceNodeRequest.VFIO_DEVICE_DETACH_IOMMUFD_PT, detach.bytes);
    succeeded(result, 'VFIO_DEVICE_DETACH_IOMMUFD_PT', `of ${this.device.name}`);
  }

  /** The kernel detaches and unbinds it. */
  close(): void {
    this.#port.close(this.device.fd);
  }
}

function nodeOf(folder: string): string {
  try {
    const [node] = readdirSync(join(folder, 'vfio-dev'));
    if (node !== undefined) return node;
  } catch {
    // Said below.
  }
  throw new GodwitError(
    'GODWIT_UNSUPPORTED',
    `${folder} has no node of its own: that needs Linux 6.6 with CONFIG_VFIO_DEVICE_CDEV, and a VFIO driver on the device`,
  );
}
