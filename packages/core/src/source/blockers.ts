import { abortable } from '../abortable.js';
import type { MigratableDevice } from '../device/migratable-device.js';

/** Why these devices cannot be migrated, one reason each; empty when they can be. */
export async function migrationBlockers(
  devices: readonly MigratableDevice[],
  signal: AbortSignal,
): Promise<readonly string[]> {
  const reasons: string[] = [];
  for (const device of devices) {
    const reason = await abortable(Promise.resolve(device.migrationBlocker?.()), signal);
    if (reason !== undefined) reasons.push(`device "${device.id}": ${reason}`);
  }
  return reasons;
}
