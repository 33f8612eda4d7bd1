import { abortable } from '../abortable.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import type { WriteProtection } from '../protect/write-protection.js';

/**
 * Asks each device and each tracker whether the VM can be migrated; resolves with one reason for each that cannot. At the destination the
 * trackers are not asked, since it does not track writes. Rejects when `signal` aborts.
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

/** The reasons why the guest cannot run before its memory is whole, one for each device that needs the whole memory. */
export function postcopyBlockers({ devices }: Pick<MigratableVm, 'devices'>): readonly string[] {
  return devices.flatMap(({ id, wholeMemory }) =>
    wholeMemory === undefined ? [] : [`device "${id}": ${wholeMemory}`],
  );
}

/** The reasons why a snapshot cannot be saved in the background: memory that cannot be protected, and devices whose writes do not wait. */
export function backgroundBlockers(
  { devices, memory }: Pick<MigratableVm, 'devices' | 'memory'>,
  protection: WriteProtection,
): readonly string[] {
  const dma = devices.flatMap(({ id, wholeMemory }) =>
    wholeMemory === undefined ? [] : [`device "${id}" accesses memory without page faults: ${wholeMemory}`],
  );
  return [...protection.blockers(memory), ...dma];
}
