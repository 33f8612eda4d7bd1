import { abortable } from '../abortable.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import type { WriteProtection } from '../protect/write-protection.js';

/**
 * Asks each device and each tracker whether the VM can be migrated; resolves with one reason for each that cannot. The destination's
 * trackers are not asked: it moves nothing away. Rejects when `signal` aborts.
 */
export async function migrationBlockers(
  { devices, trackers }: { devices: MigratableVm['devices']; trackers?: MigratableVm['trackers'] },
  signal: AbortSignal,
): Promise<readonly string[]> {
  const reasons: string[] = [];
  for (const device of devices) {
    const reason = await abortable(Promise.resolve(device.migrationBlocker?.()), signal);
    if (reason !== undefined) reasons.push(`device "${device.id}": ${reason}`);
  }
  for (const tracker of trackers ?? []) {
    const reason = await abortable(Promise.resolve(tracker.migrationBlocker?.()), signal);
    if (reason !== undefined) reasons.push(`tracker "${tracker.name}": ${reason}`);
  }
  return reasons;
}

/** Why the guest cannot run before its memory is whole, one reason for each device that cannot do with less. */
export function postcopyBlockers({ devices }: Pick<MigratableVm, 'devices'>): readonly string[] {
  return devices.flatMap(({ id, wholeMemory }) =>
    wholeMemory === undefined ? [] : [`device "${id}": ${wholeMemory}`],
  );
}

/** Why a snapshot cannot be saved in the background, one reason each: memory that cannot be protected, and devices whose writes do not wait. */
export function backgroundBlockers(
  { devices, memory }: Pick<MigratableVm, 'devices' | 'memory'>,
  protection: WriteProtection,
): readonly string[] {
  const dma = devices.flatMap(({ id, wholeMemory }) =>
    wholeMemory === undefined ? [] : [`device "${id}" accesses memory without page faults: ${wholeMemory}`],
  );
  return [...protection.blockers(memory), ...dma];
}
