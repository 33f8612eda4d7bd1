import type { MigratableDevice } from '../device/migratable-device.js';
import type { DeviceScenario } from '../simulation/scenario.js';

/** Bytes of state of a device that does not report its size, or none: the registers of one. */
const UNTOLD_BYTES = 4096;

/** The devices as a scenario has them; `sizes` are the bytes that they report, 0 for one that reports none. */
export function describeDevices(
  devices: readonly MigratableDevice[],
  sizes: readonly number[],
): readonly DeviceScenario[] {
  return devices.map(({ id, parallel }, index) => ({
    id,
    bytes: sizes[index] || UNTOLD_BYTES,
    ...(parallel === undefined ? {} : { parallel }),
  }));
}
