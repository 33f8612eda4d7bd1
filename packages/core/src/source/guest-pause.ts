import { abortable } from '../abortable.js';
import type { Claim } from '../claim/claim.js';
import type { Clock } from '../clock.js';
import type { MigratableVm, RunState } from '../device/migratable-vm.js';
import { GodwitError } from '../errors.js';
import { settledWithin } from '../in-time.js';
import type { MovedRunState } from '../protocol/frame.js';

/** How long the way back waits for a `pause` that was told to undo itself: a cancel is to be felt at once. Milliseconds. */
const PAUSE_ENDS_MS = 40;

/** How long a `resume` that has not returned keeps the migration from ending. Milliseconds. */
const RESUME_ENDS_MS = 1000;

/**
 * Pauses the guest for a stop-and-copy, and resumes it when that is given up: never one while the other is under way, and never a
 * guest that its user had paused. Both are the claim's as long as they have not returned.
 */
export class GuestPause {
  readonly #vm: MigratableVm;
  readonly #claim: Claim;
  #runState: MovedRunState = 'running';
  #pausing: Promise<void> | undefined;
  #settled = true;
  #stuck = false;
  /** A `pause` that came back late is being undone. */
  #undoing = false;
  /** Why the guest could not be resumed then. */
  #notUndone: GodwitError | undefined;

  constructor(vm: MigratableVm, claim: Claim) {
    this.#vm = vm;
    this.#claim = claim;
  }

  /** The guest may be paused by us. */
  get asked(): boolean {
    return this.#pausing !== undefined;
  }

  /** The last `resume` has failed, or has not returned: the guest stands still. */
  get stuck(): boolean {
    return this.#stuck;
  }

  /** True once `pause` has settled, whichever way, and so has the `resume` that undoes one that came back late. */
  get settled(): boolean {
    return this.#settled && !this.#undoing;
  }

  /** What the guest did before it was paused for this stop-and-copy. */
  get runState(): MovedRunState {
    return this.#runState;
  }

  /**
   * Throws `GODWIT_GUEST_ENDED` when there is nothing to move any more, and `GODWIT_VM_FAILED` when the guest could not be resumed after
   * a `pause` that came back late.
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

  /** Pauses the guest. When `signal` aborts, `pause` is told to undo itself, and this rejects at once. */
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
    this.#claim.keepUntil(this.#pausing, 'pause() of the VM');
    await abortable(this.#pausing, signal);
  }

  /**
   * Runs the guest again, as it did before. Rejects when that fails, or has not returned after a second (it is then the claim's).
   * A VMM whose `pause` does not come back cannot be resumed now: then this returns false, and the guest is resumed as soon as it
   * does, still under the claim.
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
      this.#claim.keepUntil(later, 'pause() of the VM, to be followed by resume(),');
      return false;
    }
    this.#stuck = true;
    const resuming = this.#run().then(() => {
      this.#stuck = false;
    });
    this.#claim.keepUntil(resuming, 'resume() of the VM');
    await Promise.race([resuming, settledWithin(resuming, clock, RESUME_ENDS_MS)]);
    if (!this.#stuck) return true;
    throw new GodwitError('GODWIT_VM_FAILED', `resume() has not returned within ${RESUME_ENDS_MS} ms`);
  }

  /** A guest that has ended while it was paused has nothing to run. */
  async #run(): Promise<void> {
    if (this.#vm.runState?.() !== 'ended') await this.#vm.resume();
  }
}
