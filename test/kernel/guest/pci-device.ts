import { existsSync, readlinkSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { AssignableDevice } from './mediated-device.js';

export const PCI_DEVICES = '/sys/bus/pci/devices';

/** A PCI device, taken from its driver and given to vfio-pci. */
export class AssignedPciDevice implements AssignableDevice {
  /** Its address: `0000:00:1f.2`. */
  readonly name: string;
  readonly group: number;

  constructor(name: string) {
    this.name = name;
    unbindPciDevice(name);
    writeFileSync(join(PCI_DEVICES, name, 'driver_override'), 'vfio-pci');
    writeFileSync('/sys/bus/pci/drivers_probe', name);
    this.group = Number(basename(readlinkSync(join(PCI_DEVICES, name, 'iommu_group'))));
  }

  remove(): void {
    unbindPciDevice(this.name);
    writeFileSync(join(PCI_DEVICES, this.name, 'driver_override'), '\n');
  }
}

/** Takes a device from its driver, if it has one. */
export function unbindPciDevice(name: string): void {
  const driver = join(PCI_DEVICES, name, 'driver');
  if (existsSync(driver)) writeFileSync(join(driver, 'unbind'), name);
}
