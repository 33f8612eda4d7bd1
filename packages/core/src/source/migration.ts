import { Claim } from '../claim/claim.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import { GodwitError } from '../errors.js';
import type { LinkConnector } from '../link/migration-link.js';
import type { MigrationEvent, MigrationState, MigrationStatus, MigrationSummary } from '../migration-event.js';
import { Ownership } from '../ownership/ownership.js';
import {
  SOURCE_OWNERSHIP,
  type SourceOwnershipEvent,
  type SourceOwnershipState,
} from '../ownership/source-ownership.js';
import { RoleEvents } from '../role-events.js';
import {
  type AdjustableOptions,
  checkAdjustable,
  type MigrateOptions,
  type ResolvedOptions,
  resolveOptions,
} from './options.js';
import { noProgress } from './progress.js';
import type { Forecaster } from './source-context.js';
import { SourceRun } from './source-run.js';
import { checkTransition, isFinal } from './state.js';

/** The states before the guest is paused. */
const EARLY: readonly MigrationState[] = ['none', 'setup', 'active', 'reconnecting'];

/** The states after `go` in which the destination does not answer. */
const UNANSWERED: readonly MigrationState[] = ['settling', 'postcopy-paused', 'postcopy-recover', 'failed'];

/**
 * A migration from the source's side: an Observable of its events, with controls and a promise of the result.
 *
 * - It starts one microtask after `migrate` has returned, so that a subscriber of the same tick gets every event. A later
 *   subscriber gets the present status first; `status()` returns it at any time.
 * - Observing never controls: unsubscribing ends nothing, and an exception in a subscriber reaches neither the process nor the migration.
 *   The stream never ends with an error: a failure is its last event (`failed`). Only `cancel()`, the other methods and the signal control
 *   the migration.
 * - When the link is lost before `go`, the engine reconnects and sends only what the destination has not acknowledged.
 * - From the return of `pause` to `go` the guest is paused for at most `pauseLimitMs`; then it runs on at the source, and pre-copy
 *   goes on.
 * - After a failure or cancel before `go` the guest is left as it was; after `go` the engine never runs it at the source by itself.
 *   `ownership` says which side may run it (docs/switchover.md).
 *
 * @example
 * const migration = migrate(vm, connectTo(tcp({ host, port })), { downtimeLimitMs: 100 });
 * migration.subscribe((event) => event.type === 'went-back' && console.warn(event.reason.message));
 * const { downtimeMs } = await migration.result;
 */
export class Migration extends RoleEvents<MigrationEvent> {
  readonly id: string;
  /**
   * Resolves with the summary when the guest runs at the destination, or when a background snapshot has its name; rejects with a
   * `GodwitError` otherwise. After a failure or `cancel()` the promise settles in bounded time.
   */
  readonly result: Promise<MigrationSummary>;
  readonly #options: ResolvedOptions;
  readonly #run: SourceRun | undefined;
  readonly #ownership: Ownership<SourceOwnershipState, SourceOwnershipEvent>;
  #state: MigrationState = 'none';
  #error: GodwitError | undefined;
  #started = false;

  /** @internal Use `migrate`. */
  constructor(vm: MigratableVm, connector: LinkConnector, given: MigrateOptions, forecast?: Forecaster) {
    super(
      () => (this.#started ? { type: 'status', status: this.status() } : undefined),
      (error) => this.#subscriberFailed(error),
    );
    this.#options = resolveOptions(given, () => connector.pageChannelsFor?.(vm.memory) ?? 0);
    this.id = this.#options.migrationId;
    this.#ownership = new Ownership(SOURCE_OWNERSHIP, (ownership, previous) =>
      this.#emit({ type: 'ownership', ownership, previous }),
    );
    try {
      // The claim is taken before anything of the VM is touched.
      const claim = Claim.take(vm, 'outgoing', this.id);
      this.#run = new SourceRun(vm, connector, claim, {
        options: this.#options,
        emit: (event) => this.#emit(event),
        state: () => this.#state,
        setState: (state) => this.#setState(state),
        ownership: this.#ownership,
        forecast,
      });
    } catch (error) {
      this.#error = GodwitError.wrap(error, 'GODWIT_INTERNAL', 'the VM could not be claimed');
    }
    this.result = Promise.resolve().then(() => this.#start(given.signal));
    // An embedder that only subscribes gets the failure as an event: the rejection must not reach the process.
    this.result.catch(() => {});
  }

  /** The present state; `completed`, `failed` and `cancelled` are final. */
  get state(): MigrationState {
    return this.#state;
  }

  /** Whether the guest may run at the source, as far as the source knows. `settle` and `recover` change it after the end, too. */
  get ownership(): SourceOwnershipState {
    return this.#ownership.state;
  }

  /** The present state, progress and last round; may be called at any time. */
  status(): MigrationStatus {
    const { meter, vm, session, limit } = this.#parts ?? {};
    return {
      state: this.#state,
      ownership: this.ownership,
      progress: meter?.snapshot(this.#state, vm?.memory.pageSize ?? 4096) ?? noProgress(this.#state),
      lastRound: meter?.last,
      attempt: session?.attempt ?? 1,
      downtimeLimitMs: this.#options.downtimeLimitMs,
      bandwidthLimit: limit?.bytesPerSecond ?? this.#options.bandwidthLimit,
      error: this.#error,
    };
  }

  /**
   * Cancels the migration: the guest runs on at the source. Returns whether the request was accepted: false after `go`, after the end, and
   * once the migration is failing or being cancelled; the call then does nothing. When the request was accepted, `result` rejects with
   * `GODWIT_CANCELLED` (or with `GODWIT_VM_FAILED`, if the guest cannot be resumed).
   */
  cancel(reason = 'cancelled by the caller'): boolean {
    const session = this.#parts?.session;
    // An aborted signal means that the migration is already failing for another reason. A file that is being given its name is a whole
    // snapshot.
    const named = session?.phase === 'handing-over' || session?.phase === 'release';
    const over = session === undefined || !this.#ownership.allows('fail') || session.signal.aborted || named;
    if (over || isFinal(this.#state) || this.#state === 'cancelling') return false;
    this.#setState('cancelling');
    session.end.set(new GodwitError('GODWIT_CANCELLED', `the migration was cancelled: ${reason}`));
    return true;
  }

  /**
   * Switches over now without asking the policy, as soon as nothing blocks it: at once where the rest of the running round can be sent
   * within `pauseLimitMs`, else after the round. With `force` the round ends at once, the guest is paused for as long as it takes (no
   * `pauseLimitMs`), and the destination's readiness is not waited for. Throws `GODWIT_INVALID_STATE` once the guest is paused, or the
   * migration over.
   */
  switchOver({ force = false }: { readonly force?: boolean } = {}): void {
    if (this.#parts === undefined || !EARLY.includes(this.#state) || this.ownership !== 'running') {
      throw new GodwitError('GODWIT_INVALID_STATE', `nothing to switch over: the state is "${this.#state}"`);
    }
    if (this.#options.background !== undefined) {
      throw new GodwitError('GODWIT_UNSUPPORTED', 'a background snapshot does not switch over: the guest stays here');
    }
    this.#parts.requests.switchOver(force);
  }

  /**
   * Switches over by post-copy as soon as the destination is prepared, without asking the policy: the guest is paused for its devices only,
   * and runs at the destination while its pages come. Requires the option `postcopy`. Throws `GODWIT_UNSUPPORTED` without that option, and
   * `GODWIT_INVALID_STATE` once the guest is paused, or the migration over.
   */
  startPostcopy(): void {
    if (!this.#options.postcopy) {
      throw new GodwitError(
        'GODWIT_UNSUPPORTED',
        'post-copy was not offered to the destination: pass postcopy: true to migrate()',
      );
    }
    if (this.#parts === undefined || !EARLY.includes(this.#state) || this.ownership !== 'running') {
      throw new GodwitError('GODWIT_INVALID_STATE', `it is too late for post-copy: the state is "${this.#state}"`);
    }
    this.#parts.requests.startPostcopy();
  }

  /**
   * After `GODWIT_OWNERSHIP_UNKNOWN`: asks the destination again whether it runs the guest, for `settleTimeoutMs` (30,000 ms where that is
   * 0). The call is always safe: it never resumes the guest after `go`. Resolves when the destination runs the guest (`ownership` is then
   * `released`); rejects with `GODWIT_OWNERSHIP_UNKNOWN` otherwise, with `GODWIT_INVALID_STATE` when there is nothing to settle, and with
   * the authority's refusal when the transfer is withdrawn: the guest then runs at the source.
   */
  async settle(): Promise<void> {
    if (this.#run === undefined) throw new GodwitError('GODWIT_INVALID_STATE', 'there is nothing to settle');
    await this.#run.settleAgain();
  }

  /**
   * Runs the guest at the source again after `go`, since the caller knows that the destination is dead. The call is allowed while
   * `ownership` is `unknown`, and while the migration is `settling` (which then ends with `GODWIT_RECOVERED`). The ownership authority is
   * asked first. If the caller is wrong, the guest runs on both sides. Rejects with `GODWIT_INVALID_ARGUMENT` without `destinationIsDead:
   * true`, with `GODWIT_INVALID_STATE` at any other time, with `GODWIT_NOT_OWNER` when the authority refuses, and with the error of the
   * VM's `resume` when `resume` fails.
   */
  async recover({ destinationIsDead }: { readonly destinationIsDead: true }): Promise<{ readonly lostMs: number }> {
    if (destinationIsDead !== true) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        'recover() needs { destinationIsDead: true }: pass it only after making sure that the destination is dead',
      );
    }
    const waiting = this.#ownership.state === 'handedOver' && !UNANSWERED.includes(this.#state);
    if (waiting || this.#run === undefined) {
      throw new GodwitError(
        'GODWIT_INVALID_STATE',
        'the destination has not failed to answer yet: recover() is for a migration that is settling or unknown',
      );
    }
    return this.#run.recover();
  }

  /** Continues a migration that waits in `pre-switchover`. Throws `GODWIT_INVALID_STATE` in any other state. */
  proceed(): void {
    if (this.#parts?.requests.held !== true) {
      throw new GodwitError(
        'GODWIT_INVALID_STATE',
        `nothing to proceed with: the state is "${this.#state}", not "pre-switchover"`,
      );
    }
    this.#parts.requests.proceed();
  }

  /** Changes limits of a running migration: they apply from the next batch on, and the policy is asked at once. */
  adjust(options: AdjustableOptions): void {
    // All options are checked before any is changed.
    checkAdjustable(options);
    const { downtimeLimitMs, bandwidthLimit, postcopyBandwidth } = options;
    if (downtimeLimitMs !== undefined) this.#options.downtimeLimitMs = downtimeLimitMs;
    if (bandwidthLimit !== undefined) {
      this.#options.bandwidthLimit = bandwidthLimit;
      if (this.#parts !== undefined && !this.#inPostcopy) this.#parts.limit.bytesPerSecond = bandwidthLimit;
    }
    if (postcopyBandwidth !== undefined) {
      this.#options.postcopyBandwidth = postcopyBandwidth;
      if (this.#parts !== undefined && this.#inPostcopy) this.#parts.limit.bytesPerSecond = postcopyBandwidth;
    }
    this.#parts?.requests.adjusted();
  }

  /** Cancels the migration if that is still possible, and resolves when the migration is over. Never rejects. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.cancel('the migration was disposed of');
    await this.result.catch(() => {});
  }

  /** Whether `postcopyBandwidth` is the limit in force. */
  get #inPostcopy(): boolean {
    return this.#state === 'postcopy-active' || this.#state === 'postcopy-paused' || this.#state === 'postcopy-recover';
  }

  get #parts() {
    return this.#run?.context;
  }

  async #start(signal: AbortSignal | undefined): Promise<MigrationSummary> {
    this.#started = true;
    const onAbort = () => this.cancel(`the signal aborted: ${String(signal?.reason)}`);
    if (signal?.aborted) onAbort();
    else signal?.addEventListener('abort', onAbort, { once: true });
    try {
      if (this.#run === undefined) throw this.#error;
      const summary = await this.#run.execute();
      this.#setState('completed');
      this.#emit({ type: 'completed', summary });
      return summary;
    } catch (error) {
      const failure = GodwitError.wrap(error, 'GODWIT_INTERNAL', 'the migration failed');
      this.#error = failure;
      if (this.#state === 'none') this.#setState('setup');
      this.#setState(failure.code === 'GODWIT_CANCELLED' && this.#state === 'cancelling' ? 'cancelled' : 'failed');
      this.#emit({ type: 'failed', error: failure });
      throw failure;
    } finally {
      this.events.complete();
      signal?.removeEventListener('abort', onAbort);
    }
  }

  #setState(state: MigrationState): void {
    const previous = this.#state;
    // A phase that is still ending must not change the state of a migration that is being cancelled.
    if (previous === 'cancelling' && state !== 'cancelled' && state !== 'failed') return;
    checkTransition(previous, state);
    this.#state = state;
    this.#emit({ type: 'state', state, previous });
  }

  #emit(event: MigrationEvent): void {
    this.events.next(event);
  }

  #subscriberFailed(error: unknown): void {
    const message = `a subscriber of the migration's events failed: ${error instanceof Error ? error.message : String(error)}`;
    this.#emit({ type: 'warning', code: 'GODWIT_INTERNAL', message });
  }
}
