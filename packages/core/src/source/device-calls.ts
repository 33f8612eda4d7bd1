import type { MigratableDevice } from '../device/migratable-device.js';
import { GodwitError } from '../errors.js';

/**
 * Tracks the calls into devices that have not returned. While one is pending, its device is not called again and the guest is not
 * paused. A call that hangs does not stop the engine; the VM stays claimed until it returns.
 */
export class DeviceCalls {
  readonly #devices: readonly MigratableDevice[];
  readonly #busy = new Map<MigratableDevice, { what: string; readonly settled: Promise<void> }>();
  /** Devices whose `precopy` or `save` was called. */
  readonly #asked = new Set<MigratableDevice>();

  constructor(devices: readonly MigratableDevice[]) {
    this.#devices = devices;
  }

  /** The pending calls, for messages: `device "gpu", asked to save its state,`. */
  get busy(): readonly string[] {
    return [...this.#busy].map(([{ id }, { what }]) => `device "${id}", asked to ${what} its state,`);
  }

  isBusy(device: MigratableDevice): boolean {
    return this.#busy.has(device);
  }

  /**
   * Runs a call of `device` to do `what` ("save"), after the pending call of that device, if there is one. An exception of `work`
   * becomes `GODWIT_DEVICE_FAILED`; the work of a "save" or "pre-copy" calls `failed` itself, since writing to the link may fail in
   * it too.
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
    // The call is registered before it is made, since it may throw and be removed in this tick.
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

  /** Resolves when no call into a device is pending; the guest must not run again before that. */
  async idle(): Promise<void> {
    while (this.#busy.size > 0) await Promise.all([...this.#busy.values()].map(({ settled }) => settled));
  }

  /** Calls `release` of every device that was asked for state. Failures go to `onFailure`; never rejects. */
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

/** The error of a device's call. `GODWIT_SWITCHOVER_OVERRAN`, with which a device gives up the stop-and-copy, is no failure. */
export function deviceFailed(device: MigratableDevice, what: string, error: unknown): GodwitError {
  if (GodwitError.is(error) && error.code === 'GODWIT_SWITCHOVER_OVERRAN') return error;
  return new GodwitError(
    'GODWIT_DEVICE_FAILED',
    `device "${device.id}" failed to ${what} its state: ${error instanceof Error ? error.message : String(error)}`,
    { cause: error },
  );
}
