import type { MigratableDevice } from './migratable-device.js';

/** The devices in their order, those together that may be saved and loaded at the same time: neighbours that all are `parallel`. */
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
