import { abortable } from '../abortable.js';
import { nonNegative } from '../argument.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import { GodwitError } from '../errors.js';
import type { LinkConnector } from '../link/migration-link.js';
import type { MigrationEvent, MigrationState, MigrationSummary } from '../migration-event.js';
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
 * - After a failure or cancel before `go` the guest runs on at the source.
 */
export class Migration extends RoleEvents<MigrationEvent> {
  readonly id: string;
  /** Resolves when the guest runs at the destination; rejects with a `GodwitError` when it will not. */
  readonly result: Promise<MigrationSummary>;
  readonly #options: ResolvedOptions;
  readonly #stop = new AbortController();
  readonly #run: SourceRun;
  #state: MigrationState = 'none';
  #noReturn = false;
  #proceed: (() => void) | undefined;

  /** @internal Use `migrate`. */
  constructor(vm: MigratableVm, connector: LinkConnector, given: MigrateOptions) {
    super();
    this.#options = resolveOptions(given);
    this.id = this.#options.migrationId;
    const controls: SourceControls = {
      options: this.#options,
      signal: this.#stop.signal,
      stop: (error) => this.#stop.abort(error),
      emit: (event) => this.#emit(event),
      state: () => this.#state,
      setState: (state) => this.#setState(state),
      hold: () => this.#hold(),
      pointOfNoReturn: () => {
        this.#noReturn = true;
      },
      crossed: () => this.#noReturn,
    };
    this.#run = new SourceRun(vm, connector, controls);
    this.result = Promise.resolve().then(() => this.#start(given.signal));
    // Whoever only subscribes hears of the failure there.
    this.result.catch(() => {});
  }

  get state(): MigrationState {
    return this.#state;
  }

  /**
   * Gives up: the guest runs on at the source. Returns whether the request was accepted: false after `go`, after the end
   * and once the migration is failing or being cancelled, where it does nothing. When it was, `result` and the stream end
   * with `GODWIT_CANCELLED` (or `GODWIT_VM_FAILED`, if the guest then cannot be resumed).
   */
  override cancel(reason = 'cancelled by the caller'): boolean {
    // Aborted already: it is failing, for a reason of its own.
    const over = this.#noReturn || this.#stop.signal.aborted || isFinal(this.#state);
    if (over || this.#state === 'cancelling') return false;
    this.#setState('cancelling');
    this.#stop.abort(new GodwitError('GODWIT_CANCELLED', `the migration was cancelled: ${reason}`));
    return true;
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

  /** Changes limits of a running migration; they are heeded from the next batch and the next decision. */
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
