import type { Claim } from '../claim/claim.js';
import type { Clock } from '../clock.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import { settledWithin } from '../in-time.js';
import type { MigrationEvent } from '../migration-event.js';

/**
 * The shortest time between two rehearsals: each kick interrupts the guest for a moment. The first `OFTEN` come closer together, since a
 * single one says little: on a busy host it takes from a tenth of the pause to ten times as long. Milliseconds.
 */
const EVERY_MS = 5000;
const OFTEN_MS = 100;
const OFTEN = 8;

/** How long a pause waits for a rehearsal that was told to end. Milliseconds. */
const ENDS_MS = 20;

export interface RehearsalParts {
  readonly vm: MigratableVm;
  readonly clock: Clock;
  readonly claim: Claim;
  readonly emit: (event: MigrationEvent) => void;
  /** Learns how long a rehearsal took, in milliseconds. */
  readonly learn: (ms: number) => void;
}

/**
 * Rehearses the pause while the guest runs (`MigratableVm.rehearsePause`): before round 1, and then while rounds are sent and after them,
 * eight times at most every 100 ms and then at most every 5 s.
 * The migration does not wait for a rehearsal, and none is under way when `pause` is called.
 */
export class PauseRehearsal {
  readonly #parts: RehearsalParts;
  #pending: Promise<void> | undefined;
  #end = new AbortController();
  #nextAt = Number.NEGATIVE_INFINITY;
  #failed = false;
  #count = 0;

  constructor(parts: RehearsalParts) {
    this.#parts = parts;
  }

  /** Begins a rehearsal, if the VM has `rehearsePause` and one is due. */
  begin(): void {
    const { vm, clock, claim } = this.#parts;
    if (vm.rehearsePause === undefined || this.#failed || this.#pending !== undefined || clock.now() < this.#nextAt)
      return;
    this.#nextAt = clock.now() + (++this.#count < OFTEN ? OFTEN_MS : EVERY_MS);
    this.#end = new AbortController();
    const pending = this.#rehearse(this.#end.signal).finally(() => {
      this.#pending = undefined;
    });
    this.#pending = pending;
    claim.keepUntil(pending, 'rehearsePause() of the VM');
  }

  /** Tells a pending rehearsal to end. Resolves with true when no rehearsal is pending any more. */
  async stop(): Promise<boolean> {
    const pending = this.#pending;
    if (pending === undefined) return true;
    this.#end.abort(new Error('the pause is no longer rehearsed'));
    await settledWithin(pending, this.#parts.clock, ENDS_MS);
    return this.#pending === undefined;
  }

  async #rehearse(signal: AbortSignal): Promise<void> {
    const { vm, emit, learn } = this.#parts;
    try {
      const ms: unknown = await vm.rehearsePause?.(signal);
      if (signal.aborted) return;
      if (typeof ms !== 'number' || !Number.isFinite(ms) || ms < 0) {
        throw new Error(`it must resolve with milliseconds, a finite number of 0 or more, got ${String(ms)}`);
      }
      learn(ms);
    } catch (error) {
      // A rehearsal that was told to end may reject, which is no failure.
      if (signal.aborted) return;
      this.#failed = true;
      const why = error instanceof Error ? error.message : String(error);
      const message = `rehearsePause() of the VM failed, and is not called again: ${why}. The pause is predicted without it`;
      emit({ type: 'warning', code: 'GODWIT_VM_FAILED', message });
    }
  }
}
