import { abortable } from '../abortable.js';
import { nonNegative } from '../argument.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import { GodwitError } from '../errors.js';
import type { LinkConnector } from '../link/migration-link.js';
import type { MigrationEvent, MigrationState, MigrationSummary } from '../migration-event.js';
import { Ownership } from '../ownership/ownership.js';
import {
  SOURCE_OWNERSHIP,
  type SourceOwnershipEvent,
  type SourceOwnershipState,
} from '../ownership/source-ownership.js';
import { RoleEvents } from '../role-events.js';
import { type AdjustableOptions, type MigrateOptions, type ResolvedOptions, resolveOptions } from './options.js';
import { type SourceControls, SourceRun } from './source-run.js';
import { checkTransition, isFinal } from './state.js';

/**
 * A migration from the source's side: an Observable of its events, with controls and a promise of the result.
 *
 * - It starts by itself, one microtask after `migrate` has returned, so that a subscriber made at once sees everything.
 *   Events are not replayed to later subscribers; `state` and `result` always tell.
 * - The stream completes when the destination runs the guest; it ends with a `GodwitError` otherwise.
 * - When the last subscriber unsubscribes before the end, the migration is cancelled. Using only `result` is fine.
 * - A link that is lost while the guest runs here is made anew, and only what the destination has not acknowledged is
 *   sent again.
 * - After a failure or cancel before `go` the guest runs on at the source; after `go` it never does by itself. Whose it
 *   is, `ownership` tells (docs/switchover.md).
 */
export class Migration extends RoleEvents<MigrationEvent> {
  readonly id: string;
  /** Resolves when the guest runs at the destination; rejects with a `GodwitError` when it will not. */
  readonly result: Promise<MigrationSummary>;
  readonly #options: ResolvedOptions;
  readonly #stop = new AbortController();
  readonly #run: SourceRun;
  readonly #ownership: Ownership<SourceOwnershipState, SourceOwnershipEvent>;
  #state: MigrationState = 'none';
  #proceed: (() => void) | undefined;

  /** @internal Use `migrate`. */
  constructor(vm: MigratableVm, connector: LinkConnector, given: MigrateOptions) {
    super();
    this.#options = resolveOptions(given);
    this.id = this.#options.migrationId;
    this.#ownership = new Ownership(SOURCE_OWNERSHIP, (ownership, previous) =>
      this.#emit({ type: 'ownership', ownership, previous }),
    );
    const controls: SourceControls = {
      options: this.#options,
      signal: this.#stop.signal,
      stop: (error) => this.#stop.abort(error),
      emit: (event) => this.#emit(event),
      state: () => this.#state,
      setState: (state) => this.#setState(state),
      hold: () => this.#hold(),
      ownership: this.#ownership,
    };
    this.#run = new SourceRun(vm, connector, controls);
    this.result = Promise.resolve().then(() => this.#start(given.signal));
    // Whoever only subscribes hears of the failure there.
    this.result.catch(() => {});
  }

  get state(): MigrationState {
    return this.#state;
  }

  /** Whether the guest may run here, as far as the source knows. Goes on changing after the end, by `settle` and `recover`. */
  get ownership(): SourceOwnershipState {
    return this.#ownership.state;
  }

  /**
   * Gives up: the guest runs on at the source. Returns whether the request was accepted: false after `go`, after the end
   * and once the migration is failing or being cancelled, where it does nothing. When it was, `result` and the stream end
   * with `GODWIT_CANCELLED` (or `GODWIT_VM_FAILED`, if the guest then cannot be resumed).
   */
  override cancel(reason = 'cancelled by the caller'): boolean {
    // Aborted already: it is failing, for a reason of its own.
    const over = !this.#ownership.allows('fail') || this.#stop.signal.aborted || isFinal(this.#state);
    if (over || this.#state === 'cancelling') return false;
    this.#setState('cancelling');
    this.#stop.abort(new GodwitError('GODWIT_CANCELLED', `the migration was cancelled: ${reason}`));
    return true;
  }

  /**
   * After `GODWIT_OWNERSHIP_UNKNOWN`: asks the destination once more whether it runs the guest, for `settleTimeoutMs`
   * (30,000 ms where that is 0). Always safe. Resolves when it does (`ownership` is then `released`); rejects with
   * `GODWIT_OWNERSHIP_UNKNOWN` again otherwise, and with `GODWIT_INVALID_STATE` when there is nothing to settle.
   */
  async settle(): Promise<void> {
    await this.#run.settleAgain();
  }

  /**
   * Runs the guest here again after `go`, on the caller's word that the destination is dead: in `unknown`, or while the
   * migration is `settling` (which then ends with `GODWIT_RECOVERED`). If the word is wrong, the guest runs twice.
   * Rejects with `GODWIT_INVALID_STATE` at any other time, and as the VM's `resume` does when that fails.
   */
  async recover({ destinationIsDead }: { readonly destinationIsDead: true }): Promise<void> {
    if (destinationIsDead !== true) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        'recover() wants { destinationIsDead: true }: say it, and be sure',
      );
    }
    if (this.#ownership.state === 'handedOver' && this.#state !== 'settling' && this.#state !== 'failed') {
      throw new GodwitError(
        'GODWIT_INVALID_STATE',
        'the destination has not failed to answer yet: recover() is for a migration that is settling or unknown',
      );
    }
    await this.#run.recover();
  }

  /** Goes on from `pre-switchover`. Throws `GODWIT_INVALID_STATE` in any other state. */
  proceed(): void {
    if (this.#proceed === undefined) {
      throw new GodwitError(
        'GODWIT_INVALID_STATE',
        `nothing to proceed with: the state is "${this.#state}", not "pre-switchover"`,
      );
    }
    this.#proceed();
  }

  /** Changes limits of a running migration; they apply from the next batch and the next decision. */
  adjust(options: AdjustableOptions): void {
    const { downtimeLimitMs, bandwidthLimit } = options;
    // Both or neither.
    if (downtimeLimitMs !== undefined) nonNegative('downtimeLimitMs', downtimeLimitMs);
    if (bandwidthLimit !== undefined) nonNegative('bandwidthLimit', bandwidthLimit);
    if (downtimeLimitMs !== undefined) this.#options.downtimeLimitMs = downtimeLimitMs;
    if (bandwidthLimit !== undefined) {
      this.#options.bandwidthLimit = bandwidthLimit;
      this.#run.bandwidthLimitChanged();
    }
  }

  async #start(signal: AbortSignal | undefined): Promise<MigrationSummary> {
    const onAbort = () => this.cancel(`the signal aborted: ${String(signal?.reason)}`);
    if (signal?.aborted) onAbort();
    else signal?.addEventListener('abort', onAbort, { once: true });
    try {
      const summary = await this.#run.execute();
      this.#setState('completed');
      this.#emit({ type: 'completed', summary });
      this.events.complete();
      return summary;
    } catch (error) {
      const failure = GodwitError.wrap(error, 'GODWIT_INTERNAL', 'the migration failed');
      this.#setState(failure.code === 'GODWIT_CANCELLED' && this.#state === 'cancelling' ? 'cancelled' : 'failed');
      this.events.error(failure);
      throw failure;
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  #hold(): Promise<void> {
    if (!this.#options.pauseBeforeSwitchover) return Promise.resolve();
    // Before the state is told: whoever hears of it may proceed, or cancel, at once.
    const proceeding = new Promise<void>((resolve) => {
      this.#proceed = resolve;
    });
    this.#setState('pre-switchover');
    return abortable(proceeding, this.#stop.signal).finally(() => {
      this.#proceed = undefined;
    });
  }

  #setState(state: MigrationState): void {
    const previous = this.#state;
    checkTransition(previous, state);
    this.#state = state;
    this.#emit({ type: 'state', state, previous });
  }

  #emit(event: MigrationEvent): void {
    this.events.next(event);
  }
}

/**
 * Moves a running VM to the destination that `connector` reaches. See `Migration` for what comes back.
 *
 * The VM must be running, or paused; it is left running at the source unless the destination takes it.
 */
export function migrate(vm: MigratableVm, connector: LinkConnector, options: MigrateOptions = {}): Migration {
  return new Migration(vm, connector, options);
}
