import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { GodwitError } from '@godwit/core';
import { Errno, StructBuffer } from '@godwit/linux/unstable';
import { Descriptor } from '../descriptor.js';
import { VfioDevice } from '../device/vfio-device.js';
import { type KernelPort, linuxKernel } from '../kernel-port.js';
import { atOnce, type KernelSteps, onPool } from '../kernel-steps.js';
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

/**
 * A device by its own node, /dev/vfio/devices/vfioN (Linux 6.6), bound to an iommufd.
 *
 * @example
 * const node = VfioDeviceNode.open('/sys/bus/pci/devices/0000:01:00.0', '0000:01:00.0', iommufd);
 * node.attach(iommufd.allocateIoas());
 */
export class VfioDeviceNode {
  readonly device: VfioDevice;
  /** Its number in the iommufd. */
  readonly deviceId: number;
  readonly #descriptor: Descriptor;
  #closing: Promise<void> | null = null;

  private constructor(device: VfioDevice, deviceId: number, descriptor: Descriptor) {
    this.device = device;
    this.deviceId = deviceId;
    this.#descriptor = descriptor;
  }

  /**
   * Opens a device and binds it; before that the kernel refuses all use of it. The event loop is blocked until the device is
   * set up, which may include a reset; with `openAsync` it is not.
   *
   * @param folder the device's folder in sysfs, as for `iommuGroupOf`
   * @throws GodwitError GODWIT_UNSUPPORTED when it has no node (CONFIG_VFIO_DEVICE_CDEV), GODWIT_DEVICE_BUSY
   */
  static open(folder: string, name: string, iommufd: Iommufd, port: KernelPort = linuxKernel): VfioDeviceNode {
    return atOnce(port, VfioDeviceNode.#opening(folder, name, iommufd, port));
  }

  /** `open` on a pool thread. */
  static async openAsync(
    folder: string,
    name: string,
    iommufd: Iommufd,
    port: KernelPort = linuxKernel,
  ): Promise<VfioDeviceNode> {
    return onPool(port, VfioDeviceNode.#opening(folder, name, iommufd, port));
  }

  static *#opening(folder: string, name: string, iommufd: Iommufd, port: KernelPort): KernelSteps<VfioDeviceNode> {
    const fd = yield { open: join('/dev/vfio/devices', nodeOf(folder)) };
    const descriptor = new Descriptor(port, fd, `device ${name}`);
    try {
      const bind = new StructBuffer(VFIO_DEVICE_BIND_IOMMUFD)
        .set('argsz', VFIO_DEVICE_BIND_IOMMUFD.size)
        .set('iommufd', iommufd.fd);
      const result = yield {
        on: descriptor,
        request: DeviceNodeRequest.VFIO_DEVICE_BIND_IOMMUFD,
        argument: bind.bytes,
      };
      succeeded(result, 'VFIO_DEVICE_BIND_IOMMUFD', `of ${name}`, {
        // Linux 6.12 returns EINVAL when the node is open elsewhere; this call has no other cause for it.
        [Errno.EBUSY]: TAKEN,
        [Errno.EINVAL]: TAKEN,
      });
      return new VfioDeviceNode(VfioDevice.adopt(fd, name, port), bind.get('out_devid'), descriptor);
    } catch (error) {
      yield { close: descriptor };
      throw error;
    }
  }

  /**
   * Puts the device into an address space, or behind a page table of it that logs. Replaces an earlier attachment. The event
   * loop is blocked while memory is pinned for the device; with `attachAsync` it is not.
   */
  attach(to: Ioas | HardwarePagetable): void {
    atOnce(this.#descriptor.port, this.#attach(to));
  }

  /** `attach` on a pool thread. */
  attachAsync(to: Ioas | HardwarePagetable): Promise<void> {
    return onPool(this.#descriptor.port, this.#attach(to));
  }

  /** VFIO_DEVICE_DETACH_IOMMUFD_PT: the device can then reach no memory. Throws `SyscallError`. */
  detach(): void {
    atOnce(this.#descriptor.port, this.#detach());
  }

  /** `detach` on a pool thread. */
  detachAsync(): Promise<void> {
    return onPool(this.#descriptor.port, this.#detach());
  }

  /** Closes the node; the kernel detaches and unbinds the device. Idempotent. */
  close(): void {
    if (!this.#descriptor.isOpen) return;
    atOnce(this.#descriptor.port, this.#steps());
  }

  /** `close` on a pool thread. Resolves when it is closed. */
  closeAsync(): Promise<void> {
    this.#closing ??= onPool(this.#descriptor.port, this.#steps());
    return this.#closing;
  }

  *#steps(): KernelSteps<void> {
    // `device` has the same descriptor, and does not own it.
    this.device.close();
    yield { close: this.#descriptor };
  }

  *#attach(to: Ioas | HardwarePagetable): KernelSteps<void> {
    const attach = new StructBuffer(VFIO_DEVICE_ATTACH_IOMMUFD_PT)
      .set('argsz', VFIO_DEVICE_ATTACH_IOMMUFD_PT.size)
      .set('pt_id', to.id);
    const request = DeviceNodeRequest.VFIO_DEVICE_ATTACH_IOMMUFD_PT;
    const result = yield { on: this.#descriptor, request, argument: attach.bytes };
    succeeded(result, 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', `of ${this.device.name} to ${to.id}`);
  }

  *#detach(): KernelSteps<void> {
    const detach = new StructBuffer(VFIO_DEVICE_DETACH_IOMMUFD_PT).set('argsz', VFIO_DEVICE_DETACH_IOMMUFD_PT.size);
    const request = DeviceNodeRequest.VFIO_DEVICE_DETACH_IOMMUFD_PT;
    const result = yield { on: this.#descriptor, request, argument: detach.bytes };
    succeeded(result, 'VFIO_DEVICE_DETACH_IOMMUFD_PT', `of ${this.device.name}`);
  }
}

function nodeOf(folder: string): string {
  try {
    const [node] = readdirSync(join(folder, 'vfio-dev'));
    if (node !== undefined) return node;
  } catch {
    // The error is thrown below.
  }
  throw new GodwitError(
    'GODWIT_UNSUPPORTED',
    `${folder} has no node of its own: that needs Linux 6.6 with CONFIG_VFIO_DEVICE_CDEV, and a VFIO driver on the device`,
  );
}
