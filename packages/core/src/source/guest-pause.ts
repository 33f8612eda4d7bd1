import { abortable } from '../abortable.js';
import type { Claim } from '../claim/claim.js';
import type { Clock } from '../clock.js';
import type { MigratableVm, RunState } from '../device/migratable-vm.js';
import { GodwitError } from '../errors.js';
import { settledWithin } from '../in-time.js';
import type { MovedRunState } from '../protocol/frame.js';

/** How long `resume` waits for a `pause` that was told to undo itself; short, so that a cancel takes effect soon. Milliseconds. */
const PAUSE_ENDS_MS = 40;

/** How long the VM's `resume` may take before the migration ends without it. Milliseconds. */
const RESUME_ENDS_MS = 1000;

/**
 * Pauses the guest for a stop-and-copy, and resumes it when the stop-and-copy is given up. The class never calls `pause` and `resume` at
 * the same time, and never resumes a guest that its user had paused. The VM stays claimed until both calls have returned.
 */
export class GuestPause {
  readonly #vm: MigratableVm;
  readonly #claim: Claim;
  #runState: MovedRunState = 'running';
  #pausing: Promise<void> | undefined;
  #settled = true;
  #stuck = false;
  #resuming = false;
  /** Settles when the last call of `pause` or `resume`, and every call that follows from it, has returned. */
  #calls: Promise<unknown> = Promise.resolve();
  /** True while the guest is resumed after a `pause` that returned late. */
  #undoing = false;
  /** The error with which the `resume` after a late `pause` failed. */
  #notUndone: GodwitError | undefined;

  constructor(vm: MigratableVm, claim: Claim) {
    this.#vm = vm;
    this.#claim = claim;
  }

  /** True from the call of `pause` to that of `resume`: the engine may have paused the guest. */
  get asked(): boolean {
    return this.#pausing !== undefined;
  }

  /** True when the last `resume` has failed or has not returned: the guest is not running. */
  get stuck(): boolean {
    return this.#stuck;
  }

  /** True once `pause` has resolved or rejected, and so has the `resume` that follows a late `pause`. */
  get settled(): boolean {
    return this.#settled && !this.#undoing;
  }

  /** True while no call of `pause` or `resume` is pending. */
  get quiet(): boolean {
    return this.settled && !this.#resuming;
  }

  /** Resolves when every call that was made so far, and every call that follows from them, has returned. */
  async whenQuiet(): Promise<void> {
    await this.#calls.catch(() => {});
  }

  /** Whether the guest was running or paused before this stop-and-copy. */
  get runState(): MovedRunState {
    return this.#runState;
  }

  /**
   * Returns the guest's state. Throws `GODWIT_GUEST_ENDED` when it has shut down or crashed, and `GODWIT_VM_FAILED` when it could not be
   * resumed after a late `pause`.
   */
  checkAlive(): RunState {
    if (this.#notUndone !== undefined) throw this.#notUndone;
    const state = this.#vm.runState?.() ?? 'running';
    if (state !== 'ended') return state;
    throw new GodwitError(
      'GODWIT_GUEST_ENDED',
      'the guest has ended (it shut down, or crashed) before it was handed over: there is nothing to migrate',
    );
  }

  /** Pauses the guest. When `signal` aborts, the VM's `pause` is told to undo itself, and this method rejects at once. */
  async pause(signal: AbortSignal): Promise<void> {
    this.#runState = this.checkAlive() === 'paused' ? 'paused' : 'running';
    this.#settled = false;
    this.#pausing = (async () => {
      try {
        await this.#vm.pause(signal);
      } catch (error) {
        throw GodwitError.wrap(error, 'GODWIT_VM_FAILED', 'the guest could not be paused');
      } finally {
        this.#settled = true;
      }
    })();
    this.#calls = this.#pausing;
    this.#claim.keepUntil(this.#pausing, 'pause() of the VM');
    await abortable(this.#pausing, signal);
  }

  /**
   * Puts the guest back into the state before `pause`. Resolves with true when that is done, and with false when `pause` has not
   * returned yet: the guest is then resumed as soon as `pause` returns. Rejects when the VM's `resume` fails, and with
   * `GODWIT_VM_FAILED` when `resume` has not returned within a second. The VM stays claimed until the pending call has returned.
   */
  async resume(clock: Clock): Promise<boolean> {
    const pausing = this.#pausing ?? Promise.resolve();
    this.#pausing = undefined;
    if (!this.#settled) await settledWithin(pausing, clock, PAUSE_ENDS_MS);
    if (this.#runState === 'paused') return true;
    if (!this.#settled) {
      this.#undoing = true;
      const later = pausing
        .catch(() => {})
        .then(() => this.#run())
        .catch((error: unknown) => {
          this.#stuck = true;
          this.#notUndone = GodwitError.wrap(error, 'GODWIT_VM_FAILED', 'the guest could not be resumed');
        })
        .finally(() => {
          this.#undoing = false;
        });
      this.#calls = later;
      this.#claim.keepUntil(later, 'pause() of the VM, to be followed by resume(),');
      return false;
    }
    this.#stuck = true;
    this.#resuming = true;
    const resuming = this.#run()
      .then(() => {
        this.#stuck = false;
      })
      .finally(() => {
        this.#resuming = false;
      });
    this.#calls = resuming;
    this.#claim.keepUntil(resuming, 'resume() of the VM');
    await Promise.race([resuming, settledWithin(resuming, clock, RESUME_ENDS_MS)]);
    if (!this.#stuck) return true;
    throw new GodwitError('GODWIT_VM_FAILED', `resume() has not returned within ${RESUME_ENDS_MS} ms`);
  }

  /** Resumes the guest, unless the guest has ended while it was paused. */
  async #run(): Promise<void> {
    if (this.#vm.runState?.() !== 'ended') await this.#vm.resume();
  }
}
