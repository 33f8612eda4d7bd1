import { abortable } from '../abortable.js';
import type { MigratableDevice } from '../device/migratable-device.js';

/** Asks each device whether it can be migrated; resolves with one reason for each that cannot. Rejects when `signal` aborts. */
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
