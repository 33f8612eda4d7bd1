import { randomUUID } from 'node:crypto';
import { readlinkSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';

/** Where the parents of the test machine's mediated devices offer theirs. */
const PARENTS = {
  /** The test device, which writes memory on command: test/kernel/module. */
  'godwit-dma': '/sys/class/godwit/godwit',
  /** The kernel's sample of a serial port that can be migrated, with one port or two. */
  'mtty-1': '/sys/class/mtty/mtty',
  'mtty-2': '/sys/class/mtty/mtty',
} as const;

export type MediatedDeviceType = keyof typeof PARENTS;

/** A device that VFIO can assign to a process. */
export interface AssignableDevice {
  /** The argument of VFIO_GROUP_GET_DEVICE_FD: a mediated device's UUID or a PCI address. */
  readonly name: string;
  /** The number of its IOMMU group. */
  readonly group: number;
  /** Undoes what made the device assignable. The device must not be open. */
  remove(): void;
}

/** A mediated device, from its creation in sysfs on. Each is in an IOMMU group of its own. */
export class MediatedDevice implements AssignableDevice {
  readonly name = randomUUID();
  readonly group: number;

  constructor(type: MediatedDeviceType) {
    writeFileSync(join(PARENTS[type], 'mdev_supported_types', type, 'create'), this.name);
    this.group = Number(basename(readlinkSync(join(this.folder, 'iommu_group'))));
  }

  /** Its folder in sysfs. */
  get folder(): string {
    return `/sys/bus/mdev/devices/${this.name}`;
  }

  remove(): void {
    writeFileSync(join(this.folder, 'remove'), '1');
  }
}
