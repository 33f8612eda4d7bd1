import { readlinkSync } from 'node:fs';
import { basename, join } from 'node:path';
import { GodwitError } from '@godwit/core';
import { Errno, StructBuffer } from '@godwit/linux/unstable';
import { Descriptor } from '../descriptor.js';
import { type KernelPort, linuxKernel } from '../kernel-port.js';
import { atOnce, type KernelSteps, onPool } from '../kernel-steps.js';
import { VFIO_GROUP_STATUS, Vfio } from '../layouts/vfio-setup.js';
import { succeeded } from '../syscall-result.js';

/**
 * The number of the IOMMU group of a device.
 *
 * @param device its folder in sysfs: `/sys/bus/pci/devices/0000:01:00.0`, `/sys/bus/mdev/devices/UUID`
 * @throws GodwitError GODWIT_UNSUPPORTED when it is in no group: the host has no IOMMU, or it is turned off
 * @example
 * iommuGroupOf('/sys/bus/pci/devices/0000:01:00.0'); // 12
 */
export function iommuGroupOf(device: string): number {
  let link: string;
  try {
    link = readlinkSync(join(device, 'iommu_group'));
  } catch (cause) {
    throw new GodwitError(
      'GODWIT_UNSUPPORTED',
      `${device} is in no IOMMU group: check that the device is there, and that the IOMMU is on (intel_iommu=on, or AMD-Vi in the firmware)`,
      { cause },
    );
  }
  return Number(basename(link));
}

/**
 * An IOMMU group: devices that the IOMMU cannot isolate from each other. It is the smallest unit that can be assigned.
 *
 * @example
 * const group = VfioGroup.open(iommuGroupOf('/sys/bus/pci/devices/0000:01:00.0'));
 * console.log(group.status().viable);
 */
export class VfioGroup {
  readonly number: number;
  readonly #descriptor: Descriptor;

  private constructor(number: number, fd: number, port: KernelPort) {
    this.number = number;
    this.#descriptor = new Descriptor(port, fd, `IOMMU group ${number}`);
  }

  /** The descriptor, valid until it is closed. */
  get fd(): number {
    return this.#descriptor.fd;
  }

  /**
   * Opens /dev/vfio/N.
   *
   * @throws SyscallError GODWIT_UNSUPPORTED without the node (no device of the group is bound to a VFIO driver),
   * GODWIT_PERMISSION, GODWIT_DEVICE_BUSY when another process has the group open, or when it is not viable
   */
  static open(number: number, port: KernelPort = linuxKernel): VfioGroup {
    let fd: number;
    try {
      fd = port.open(`/dev/vfio/${number}`);
    } catch (error) {
      throw busy(error, number);
    }
    const group = new VfioGroup(number, fd, port);
    try {
      group.#requireViable();
    } catch (error) {
      group.close();
      throw error;
    }
    return group;
  }

  /** VFIO_GROUP_GET_STATUS. */
  status(): { readonly viable: boolean; readonly containerSet: boolean } {
    const status = new StructBuffer(VFIO_GROUP_STATUS).set('argsz', VFIO_GROUP_STATUS.size);
    const result = this.#descriptor.ioctl(Vfio.VFIO_GROUP_GET_STATUS, status.bytes);
    succeeded(result, 'VFIO_GROUP_GET_STATUS', `on group ${this.number}`);
    const flags = status.get('flags');
    return {
      viable: (flags & Vfio.VFIO_GROUP_FLAGS_VIABLE) !== 0,
      containerSet: (flags & Vfio.VFIO_GROUP_FLAGS_CONTAINER_SET) !== 0,
    };
  }

  /** Puts the group into a container. `leaves`, or closing the group, takes it out again. */
  setContainer(container: number): void {
    atOnce(this.#descriptor.port, this.enters(container));
  }

  /** The calls that `setContainer` makes. */
  *enters(container: number): KernelSteps<void> {
    const argument = new Uint8Array(new Int32Array([container]).buffer);
    const result = yield { on: this.#descriptor, request: Vfio.VFIO_GROUP_SET_CONTAINER, argument };
    succeeded(result, 'VFIO_GROUP_SET_CONTAINER', `of group ${this.number}`, {
      [Errno.EBADFD]: { code: 'GODWIT_INVALID_ARGUMENT', advice: `file descriptor ${container} is no VFIO container` },
      [Errno.EINVAL]: { code: 'GODWIT_INVALID_STATE', advice: 'the group is in a container already' },
      [Errno.EPERM]: {
        advice: 'the IOMMU cannot remap interrupts; turn interrupt remapping on, or allow_unsafe_interrupts',
      },
    });
  }

  /**
   * Takes the group out of its container. While a device of the group is open the kernel refuses, and the group stays in the
   * container until it is closed.
   */
  *leaves(): KernelSteps<void> {
    if (this.#descriptor.isOpen) yield { on: this.#descriptor, request: Vfio.VFIO_GROUP_UNSET_CONTAINER };
  }

  /**
   * Opens one of the group's devices; the caller closes the descriptor. The group must be in a container with an IOMMU. The
   * event loop is blocked until the device is open, which may include a reset; with `deviceFdAsync` it is not.
   *
   * @param name as in sysfs: `0000:01:00.0`, or a mediated device's UUID
   */
  deviceFd(name: string): number {
    return atOnce(this.#descriptor.port, this.#deviceFd(name));
  }

  /** `deviceFd` on a pool thread. */
  deviceFdAsync(name: string): Promise<number> {
    return onPool(this.#descriptor.port, this.#deviceFd(name));
  }

  *#deviceFd(name: string): KernelSteps<number> {
    const argument = new TextEncoder().encode(`${name}\0`);
    const result = yield { on: this.#descriptor, request: Vfio.VFIO_GROUP_GET_DEVICE_FD, argument };
    return succeeded(result, 'VFIO_GROUP_GET_DEVICE_FD', `for ${name} in group ${this.number}`, {
      [Errno.ENODEV]: {
        code: 'GODWIT_UNSUPPORTED',
        advice: 'no such device in this group, or no VFIO driver has it',
      },
      [Errno.EBUSY]: { code: 'GODWIT_DEVICE_BUSY', advice: 'another process has the device open' },
      [Errno.EINVAL]: {
        code: 'GODWIT_INVALID_STATE',
        advice: 'put the group into a container and set its IOMMU first',
      },
    });
  }

  /** Idempotent. Devices of the group, and its container, must be closed first. */
  close(): void {
    this.#descriptor.close();
  }

  /** `close` on a pool thread. Resolves when the group is closed. */
  closeAsync(): Promise<void> {
    return this.#descriptor.closeAsync();
  }

  #requireViable(): void {
    if (this.status().viable) return;
    throw new GodwitError(
      'GODWIT_DEVICE_BUSY',
      `IOMMU group ${this.number} is not viable: some of its devices are held by a host driver; bind all of ` +
        `/sys/kernel/iommu_groups/${this.number}/devices to vfio-pci or to no driver`,
    );
  }
}

/** Explains EBUSY from open, which means that another process has the group open; returns all other errors unchanged. */
function busy(error: unknown, number: number): unknown {
  if ((error as { errno?: number }).errno !== Errno.EBUSY) return error;
  return new GodwitError('GODWIT_DEVICE_BUSY', `another process has IOMMU group ${number} open`, { cause: error });
}
