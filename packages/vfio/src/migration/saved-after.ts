import type { MigratableDevice } from '@godwit/core';

/**
 * Returns `device` with another `save`, which first waits for `ready`, and yields nothing when it is given up
 * meanwhile.
 *
 * @param alsoBlocked a further reason, from its surroundings, why it cannot be migrated
 */
export function savedAfter(
  device: MigratableDevice,
  ready: () => Promise<void>,
  alsoBlocked?: () => string | undefined,
): MigratableDevice {
  async function* save(signal?: AbortSignal): AsyncGenerator<Uint8Array> {
    await ready();
    if (signal?.aborted !== true) yield* device.save(signal);
  }
  async function migrationBlocker(): Promise<string | undefined> {
    const reasons = [await device.migrationBlocker?.(), alsoBlocked?.()].filter((reason) => reason !== undefined);
    return reasons.length === 0 ? undefined : reasons.join('; ');
  }
  // All other members are those of the device itself, also members that the contract may get later.
  return new Proxy(device, {
    get(target, name) {
      if (name === 'save') return save;
      if (name === 'migrationBlocker' && alsoBlocked !== undefined) return migrationBlocker;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}
