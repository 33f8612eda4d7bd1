import { abortable } from '../abortable.js';
import type { Clock } from '../clock.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import { GodwitError } from '../errors.js';
import { settledWithin } from '../in-time.js';

/** How long the way back waits for a `pause` that has not returned: a cancel is to be felt at once. Milliseconds. */
const PAUSE_ENDS_MS = 40;

/** Pauses the guest for the switchover, and resumes it when there is none: never the one while the other is under way. */
export class GuestPause {
  readonly #vm: MigratableVm;
  #pausing: Promise<void> | undefined;
  #settled = false;

  constructor(vm: MigratableVm) {
    this.#vm = vm;
  }

  /** True once the guest may be paused. */
  get asked(): boolean {
    return this.#pausing !== undefined;
  }

  async pause(signal: AbortSignal): Promise<void> {
    this.#pausing = (async () => {
      try {
        await this.#vm.pause();
      } catch (error) {
        throw GodwitError.wrap(error, 'GODWIT_VM_FAILED', 'the guest could not be paused');
      } finally {
        this.#settled = true;
      }
    })();
    await abortable(this.#pausing, signal);
  }

  /**
   * Runs the guest again. Rejects when that fails. A VMM whose `pause` does not come back cannot be resumed now: then
   * this returns false, and the guest is resumed as soon as it does.
   */
  async resume(clock: Clock): Promise<boolean> {
    const pausing = this.#pausing ?? Promise.resolve();
    await settledWithin(pausing, clock, PAUSE_ENDS_MS);
    if (this.#settled) {
      await this.#vm.resume();
      return true;
    }
    pausing
      .catch(() => {})
      .then(() => this.#vm.resume())
      .catch(() => {});
    return false;
  }
}
