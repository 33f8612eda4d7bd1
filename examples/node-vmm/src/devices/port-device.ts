/**
 * A device behind I/O ports, as the thread of one vCPU sees it. Its methods are called on that thread between two KVM_RUNs; the vCPU
 * waits meanwhile. State that is migrated, or that vCPUs share, is on the `SharedBoard`.
 */
export interface PortDevice {
  readonly firstPort: number;
  readonly portCount: number;
  /** @param size bytes: 1, 2 or 4 */
  read(port: number, size: number): number;
  write(port: number, size: number, value: number): void;
  /** Many accesses at once, by a string instruction (`rep outsb`). Default: one `write` each. */
  writeString?(port: number, size: number, data: Uint8Array): void;
}

/** Finds the device of a port. For a port without a device reads return all ones and writes have no effect, as on a PC. */
export class PortMap {
  readonly #devices = new Map<number, PortDevice>();

  constructor(devices: readonly PortDevice[]) {
    for (const device of devices) {
      for (let i = 0; i < device.portCount; i++) this.#devices.set(device.firstPort + i, device);
    }
  }

  at(port: number): PortDevice | undefined {
    return this.#devices.get(port);
  }
}
