import type { MigratableDevice } from '../device/migratable-device.js';
import { GodwitError } from '../errors.js';

/**
 * Calls into devices that have not returned: no device is called again meanwhile, and the guest is not paused. A call that hangs
 * does not keep the engine from going on, and keeps the claim.
 */
export class DeviceCalls {
  readonly #devices: readonly MigratableDevice[];
  readonly #busy = new Map<MigratableDevice, { what: string; readonly settled: Promise<void> }>();
  /** Devices whose `precopy` or `save` was called. */
  readonly #asked = new Set<MigratableDevice>();

  constructor(devices: readonly MigratableDevice[]) {
    this.#devices = devices;
  }

  /** In words, for messages: `save() of device "gpu"`. */
  get busy(): readonly string[] {
    return [...this.#busy].map(([{ id }, { what }]) => `device "${id}", asked to ${what} its state,`);
  }

  isBusy(device: MigratableDevice): boolean {
    return this.#busy.has(device);
  }

  /**
   * Runs a call, after the one that is under way, if there is one. Its failure is the device's unless `work` says otherwise by what it
   * throws.
   */
  begin<T>(
    device: MigratableDevice,
    what: string,
    work: (failed: (error: unknown) => GodwitError) => Promise<T>,
  ): Promise<T> {
    if (what === 'save' || what === 'pre-copy') this.#asked.add(device);
    const failed = (error: unknown) => deviceFailed(device, what, error);
    const wraps = what !== 'save' && what !== 'pre-copy';
    let settle: () => void = () => {};
    const settled = new Promise<void>((resolve) => {
      settle = resolve;
    });
    const before = this.#busy.get(device);
    const call = { what: before?.what ?? what, settled };
    // Before the call: one that throws at once is over at once.
    this.#busy.set(device, call);
    return (async () => {
      try {
        if (before !== undefined) await before.settled;
        call.what = what;
        return await work(failed);
      } catch (error) {
        throw wraps ? failed(error) : error;
      } finally {
        if (this.#busy.get(device) === call) this.#busy.delete(device);
        settle();
      }
    })();
  }

  /** Resolves when no code of a device runs on our behalf any more: before the guest may run again. */
  async idle(): Promise<void> {
    while (this.#busy.size > 0) await Promise.all([...this.#busy.values()].map(({ settled }) => settled));
  }

  /** Lets every device that was asked for state end it; failures are reported, not thrown. */
  async release(onFailure: (device: MigratableDevice, error: unknown) => void): Promise<void> {
    for (const device of this.#devices) {
      if (!this.#asked.delete(device)) continue;
      try {
        await device.release?.();
      } catch (error) {
        onFailure(device, error);
      }
    }
  }
}

export function deviceFailed(device: MigratableDevice, what: string, error: unknown): GodwitError {
  return new GodwitError(
    'GODWIT_DEVICE_FAILED',
    `device "${device.id}" failed to ${what} its state: ${error instanceof Error ? error.message : String(error)}`,
    { cause: error },
  );
}
