import type { MigratableDevice } from './migratable-device.js';

/**
 * Groups the devices, in their order: a group has the devices that may be saved and loaded at the same time, which are neighbours
 * that are all `parallel`.
 */
export function sideBySide(devices: readonly MigratableDevice[]): readonly (readonly MigratableDevice[])[] {
  const groups: MigratableDevice[][] = [];
  let last: MigratableDevice[] | undefined;
  for (const device of devices) {
    if (last !== undefined && device.parallel === true) last.push(device);
    else groups.push([device]);
    last = device.parallel === true ? groups.at(-1) : undefined;
  }
  return groups;
}
