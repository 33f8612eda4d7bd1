import type { MigratableDevice } from '@godwit/core';

/** `device`, but for its `save`, which waits for `ready` first and yields nothing when it is given up meanwhile. */
export function savedAfter(device: MigratableDevice, ready: () => Promise<void>): MigratableDevice {
  async function* save(signal?: AbortSignal): AsyncGenerator<Uint8Array> {
    await ready();
    if (signal?.aborted !== true) yield* device.save(signal);
  }
  // Whatever else a device has, or has not, is the device's own: also what the contract may get later.
  return new Proxy(device, {
    get(target, name) {
      if (name === 'save') return save;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}
