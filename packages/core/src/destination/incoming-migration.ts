import { checkOptions, chosen, nonNegative, oneOf, withMethods } from '../argument.js';
import type { Clock } from '../clock.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import { checkEncodings, delta, type PageEncoding } from '../encoding/page-encoding.js';
import { GodwitError, quoted } from '../errors.js';
import { HANDSHAKE_TIMEOUT_MS, type LinkListener } from '../link/migration-link.js';
import type { IncomingEvent, IncomingState, IncomingStatus } from '../migration-event.js';
import type { FaultService } from '../missing/missing-memory.js';
import {
  DESTINATION_OWNERSHIP,
  type DestinationOwnershipEvent,
  type DestinationOwnershipState,
} from '../ownership/destination-ownership.js';
import { Ownership } from '../ownership/ownership.js';
import type { OwnershipAuthority } from '../ownership/ownership-authority.js';
import type { HelloFrame } from '../protocol/frame.js';
import { RoleEvents } from '../role-events.js';
import { authorityOf, checkSignal, clockOf } from '../role-parts.js';
import { KEEPALIVE_OPTIONS, type KeepaliveOptions, keepaliveTimes } from '../session/keepalive.js';
import { Arrived, type DestinationContext, type DestinationPhase, type Received } from './destination-context.js';
import { DestinationSession } from './destination-session.js';
import { Load } from './phases/load.js';
import { PostCopy } from './phases/post-copy.js';
import { Receive } from './phases/receive.js';
import { Release } from './phases/release.js';
import { SetUp } from './phases/set-up.js';
import { TakeOver } from './phases/take-over.js';
import { rollBack } from './roll-back.js';

/** Options of `receive`; only `prepare` has no default. */
export interface ReceiveOptions extends KeepaliveOptions {
  /**
   * Builds the VM that receives the guest, from the source's description of it (`MigrateOptions.description`): with the same RAM
   * blocks and devices, and not running. The engine clears its RAM. Throwing refuses the migration, and the source gets the message.
   */
  readonly prepare: (description: unknown, hello: HelloFrame) => MigratableVm | Promise<MigratableVm>;
  /**
   * Encodings of pages that a source may use. Default: `[delta()]`, which needs no memory here; compressions come from other packages. An
   * encoding that only the source has is not used: this side emits a `warning`, and the source does what its option `missingEncoding` says.
   */
  readonly encodings?: readonly PageEncoding[];
  /**
   * `run` (the default): the guest does what it did at the source; a guest that its user had paused stays paused. `pause`: the guest stays
   * paused in any case.
   */
  readonly onArrival?: 'run' | 'pause';
  /**
   * `complete` (the default): the guest runs once all its memory is here. `at once`: a guest from a snapshot runs as soon as its devices
   * are loaded; a page comes when the guest needs it, the others in the background, and `result` resolves when all pages are here. `at
   * once` requires `faults`. A device model that touches guest memory on the event loop awaits `GuestMemory.present` first.
   */
  readonly run?: 'complete' | 'at once';
  /**
   * Serves the page faults of a guest that runs at once, or that a source moves by post-copy (`MigrateOptions.postcopy`): `faultThreads()`
   * of `@godwit/workers`, made beforehand. A device model that touches guest memory on the event loop then awaits `GuestMemory.present`
   * first. Without it post-copy is not offered to the source.
   */
  readonly faults?: FaultService;
  /** Receives only the migration with this id, 32 hex digits (`MigrateOptions.migrationId`). Default: the first that comes. */
  readonly migrationId?: string;
  /** Decides which side owns the guest. Default: `localAuthority`, with which the destination owns the guest once `go` has come. */
  readonly authority?: OwnershipAuthority;
  /** Cancels the incoming migration when it aborts; has no effect after `go`. */
  readonly signal?: AbortSignal;
  /**
   * Most bytes of device state that are held before they are loaded, of all devices together. The source waits until there is room. A
   * larger state of a stop-and-copy is loaded as it comes: going back to pre-copy then costs the devices a `reset`. A source that cannot
   * wait (a snapshot) is refused before a page moves if its devices have more. Default 256 MiB.
   */
  readonly maximumDeviceState?: number;
  /** How long a connected source may take to send its hello, and to attach its page channels, each. Milliseconds; default 30,000. */
  readonly handshakeTimeoutMs?: number;
  /**
   * While the guest's state is incomplete: how long a source whose link was lost may take to reconnect before the migration fails with
   * `GODWIT_LINK_LOST`. Milliseconds; default 30,000. Once everything is loaded there is no limit, since `go` may be in flight.
   */
  readonly reconnectTimeoutMs?: number;
  /**
   * With the guest running here: how long a source whose link was lost may take to reconnect and be told that the guest runs. After that
   * the incoming migration completes with a `warning`. Milliseconds; default 30,000, at least 1,000.
   */
  readonly settleTimeoutMs?: number;
  /** Milliseconds between `progress` events; default 100; 0 for no such events. */
  readonly progressIntervalMs?: number;
  /** The clock of every wait and measurement. Default: `systemClock`. */
  readonly clock?: Clock;
  /** Numbers from 0 to below 1, from which the VM's `incarnation` is made. Default: the platform's cryptography. */
  readonly random?: () => number;
}

/**
 * A migration from the destination's side: an Observable of its events, with controls and a promise of the result.
 *
 * It starts one microtask after `receive` has returned. Observing never controls, and the stream never ends with an error: a failure
 * is its last event (`failed`). A late subscriber gets the present status first.
 *
 * A source whose link is lost reconnects through the same listener: keep it open until the end. Once everything is loaded the
 * destination waits for the source without a time limit; `go`, the source's message that it keeps the guest or goes back to
 * pre-copy, `cancel` or `recover` end the wait (docs/switchover.md).
 *
 * @example
 * const incoming = receive(await listenOn(tcp({ host, port })), { prepare: (description) => buildVm(description) });
 * const { vm } = await incoming.result; // the guest runs here
 */
export class IncomingMigration extends RoleEvents<IncomingEvent> {
  /** Resolves with the VM that `prepare` built once the guest is here; rejects with a `GodwitError` when it will not be. */
  readonly result: Promise<Received>;
  readonly #context: DestinationContext;
  #state: IncomingState = 'none';
  #error: GodwitError | undefined;
  #started = false;
  #giveUpPages: (reason: GodwitError) => void = () => {};

  /** @internal Use `receive`. */
  constructor(listener: LinkListener, options: ReceiveOptions) {
    super(
      () => (this.#started ? { type: 'status', status: this.status() } : undefined),
      (error) => this.#subscriberFailed(error),
    );
    const emit = (event: IncomingEvent) => this.events.next(event);
    this.#context = {
      phases: {
        receive: (arriving) => Receive.begin(this.#context, arriving),
        load: (arriving) => Load.begin(this.#context, arriving),
        takeOver: (arriving) => TakeOver.begin(this.#context, arriving),
        postCopy: (arriving, missing) => PostCopy.begin(this.#context, arriving, missing),
        release: (arriving) => new Release(arriving),
      },
      options: resolve(options),
      ownership: new Ownership<DestinationOwnershipState, DestinationOwnershipEvent>(
        DESTINATION_OWNERSHIP,
        (ownership, previous) => emit({ type: 'ownership', ownership, previous }),
      ),
      session: new DestinationSession(listener),
      emit,
      setState: (state) => this.#setState(state),
      ...{ vm: undefined, claim: undefined, arriving: undefined, serving: undefined, missing: undefined },
      undoing: undefined,
      pagesCame: false,
      servingMissing: Promise.resolve(),
      pagesGivenUp: new Promise((_, reject) => {
        this.#giveUpPages = reject;
      }),
    };
    withMethods('receive takes a listener, such as listenOn() resolves with', listener, ['accept']);
    this.#context.pagesGivenUp.catch(() => {});
    this.result = Promise.resolve().then(() => this.#start(options.signal));
    this.result.catch(() => {});
  }

  /** The present state; `completed` and `failed` are final. */
  get state(): IncomingState {
    return this.#state;
  }

  /** Whether the guest may run here, as far as the destination knows. */
  get ownership(): DestinationOwnershipState {
    return this.#context.ownership.state;
  }

  /** The present state and progress; may be called at any time. */
  status(): IncomingStatus {
    const { arriving, session } = this.#context;
    const receiver = arriving?.receiver;
    return {
      state: this.#state,
      ownership: this.ownership,
      migrationId: session.migrationId,
      pages: receiver?.totals ?? { raw: 0, zero: 0, delta: 0, compressed: 0 },
      wireBytes: session.bytesRead,
      round: receiver?.round ?? 1,
      error: this.#error,
      faults: this.#context.missing?.status(),
    };
  }

  /**
   * Runs the guest here without `go`, since the caller knows that the source is dead. It is allowed while everything is loaded and `go` has
   * not come (`ownership` is `ready`). The ownership authority is asked first. If the caller is wrong, the guest runs on both sides.
   * `result` settles with the outcome of this call. The promise rejects with `GODWIT_INVALID_ARGUMENT` without `sourceIsDead: true`, with
   * `GODWIT_INVALID_STATE` at any other time, with `GODWIT_PAGES_MISSING` in a switchover by post-copy, or a restore that runs at once, whose
   * pages have not all come, and with `GODWIT_NOT_OWNER` when the authority refuses: the destination then goes on waiting.
   */
  async recover({ sourceIsDead }: { readonly sourceIsDead: true }): Promise<void> {
    if (sourceIsDead !== true) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        'recover() needs { sourceIsDead: true }: pass it only after making sure that the source is dead',
      );
    }
    const { session, serving, ownership } = this.#context;
    if (session.signal.aborted) {
      throw new GodwitError(
        'GODWIT_INVALID_STATE',
        'the incoming migration has been cancelled: its guest never runs here',
      );
    }
    if (!(serving instanceof Load) || !ownership.allows('recover')) {
      throw new GodwitError(
        'GODWIT_INVALID_STATE',
        `"recover" is illegal while the destination's ownership is "${ownership.state}": the guest is not complete here, or taken already`,
      );
    }
    await serving.recover();
  }

  /**
   * Cancels the incoming migration: the guest stays at the source, and `result` rejects with `GODWIT_CANCELLED`. Returns false, and does
   * nothing, after `go`, after the end, and once the migration is failing.
   */
  cancel(reason = 'cancelled by the caller'): boolean {
    const { ownership, session } = this.#context;
    if (!ownership.allows('fail') || session.signal.aborted || this.#state === 'failed') return false;
    session.end.set(new GodwitError('GODWIT_CANCELLED', `the destination gave up: ${reason}`));
    return true;
  }

  /**
   * With the guest running here before its memory is whole (states `postcopy-active`, `-paused`, `-recover`): gives up the pages that are missing. The guest is
   * paused where it is and will never be whole; `result` rejects with `GODWIT_PAGES_MISSING` in bounded time, whatever the source does, and
   * the VM may then be closed. Returns false, and does nothing, at any other time.
   */
  giveUpPages(reason = 'the caller gave them up'): boolean {
    if (!this.#state.startsWith('postcopy-') || this.#context.pagesCame) return false;
    const left = this.#context.missing?.status().pagesMissing ?? 0;
    this.#giveUpPages(new GodwitError('GODWIT_PAGES_MISSING', `${left} pages of the guest never came: ${reason}`));
    return true;
  }

  /**
   * Cancels the incoming migration if that is still possible, and resolves when the migration is over. Never rejects. A guest that runs here
   * is left alone: while pages are missing the promise waits for them, or for `giveUpPages`.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    this.cancel('the incoming migration was disposed of');
    await this.result.catch(() => {});
  }

  async #start(signal: AbortSignal | undefined): Promise<Received> {
    this.#started = true;
    const onAbort = () => this.cancel(`the signal aborted: ${String(signal?.reason)}`);
    if (signal?.aborted) onAbort();
    else signal?.addEventListener('abort', onAbort, { once: true });
    const over = new AbortController();
    try {
      const received = await this.#phases(over.signal);
      over.abort();
      this.#setState('completed');
      this.events.next({ type: 'completed', summary: received.summary });
      return received;
    } catch (error) {
      over.abort();
      const failure = GodwitError.wrap(error, 'GODWIT_INTERNAL', 'the migration failed at the destination');
      this.#error = failure;
      this.#setState('failed');
      this.events.next({ type: 'failed', error: failure });
      throw failure;
    } finally {
      this.events.complete();
      signal?.removeEventListener('abort', onAbort);
    }
  }

  async #phases(over: AbortSignal): Promise<Received> {
    const context = this.#context;
    let failed: GodwitError | undefined;
    try {
      let phase: DestinationPhase = new SetUp();
      for (;;) {
        const next = await phase.run(context);
        if (next instanceof Arrived) return next.received;
        if (phase instanceof SetUp) void this.#reportProgress(over);
        phase = next;
      }
    } catch (error) {
      failed = await rollBack(context, error);
      throw failed;
    } finally {
      const { arriving, session, ownership } = context;
      const { resumeMs = 0, sinceReadyMs = 0, welcome } = arriving ?? {};
      const incarnation = welcome?.incarnation ?? '0'.repeat(32);
      session.finish({ state: ownership.state, reason: failed, incarnation, resumeMs, sinceReadyMs });
    }
  }

  async #reportProgress(over: AbortSignal): Promise<void> {
    const { options, session, emit } = this.#context;
    const { clock, progressIntervalMs } = options;
    if (progressIntervalMs === 0) return;
    try {
      for (;;) {
        await clock.sleep(progressIntervalMs, over);
        const receiver = this.#context.arriving?.receiver;
        if (receiver === undefined) continue;
        emit({ type: 'progress', pages: receiver.totals, wireBytes: session.bytesRead });
      }
    } catch {
      // The migration is over.
    }
  }

  #setState(state: IncomingState): void {
    const previous = this.#state;
    this.#state = state;
    this.events.next({ type: 'state', state, previous });
  }

  #subscriberFailed(error: unknown): void {
    const message = `a subscriber of the incoming migration's events failed: ${error instanceof Error ? error.message : String(error)}`;
    this.events.next({ type: 'warning', code: 'GODWIT_INTERNAL', message });
  }
}

const RECEIVE_OPTIONS: Readonly<Record<keyof ReceiveOptions, true>> = {
  ...KEEPALIVE_OPTIONS,
  prepare: true,
  encodings: true,
  onArrival: true,
  run: true,
  faults: true,
  migrationId: true,
  authority: true,
  signal: true,
  maximumDeviceState: true,
  handshakeTimeoutMs: true,
  reconnectTimeoutMs: true,
  settleTimeoutMs: true,
  progressIntervalMs: true,
  clock: true,
  random: true,
};

function resolve(options: ReceiveOptions) {
  checkOptions<ReceiveOptions>('receive', options, RECEIVE_OPTIONS);
  if (typeof options.prepare !== 'function') {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `prepare must be a function that builds the VM from the source's description, got ${quoted(options.prepare)}`,
    );
  }
  const { migrationId, onArrival = 'run', run = 'complete', faults } = options;
  oneOf('run', run, ['complete', 'at once']);
  if (run === 'at once' && faults === undefined) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      'run: "at once" needs something that serves page faults: pass faults: faultThreads() of @godwit/workers',
    );
  }
  if (migrationId !== undefined && !/^[0-9a-f]{32}$/.test(migrationId)) {
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `migrationId must be 32 hex digits, got ${chosen(migrationId)}`);
  }
  oneOf('onArrival', onArrival, ['run', 'pause']);
  checkSignal(options.signal);
  return {
    clock: clockOf(options.clock),
    random: options.random,
    prepare: options.prepare,
    migrationId,
    onArrival,
    atOnce: run === 'at once',
    faults,
    authority: authorityOf(options.authority),
    encodings: checkEncodings(options.encodings ?? [delta()]),
    maximumDeviceState: nonNegative('maximumDeviceState', options.maximumDeviceState ?? 256 * 2 ** 20),
    handshakeTimeoutMs: nonNegative('handshakeTimeoutMs', options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS),
    reconnectTimeoutMs: nonNegative('reconnectTimeoutMs', options.reconnectTimeoutMs ?? 30_000),
    settleTimeoutMs: nonNegative('settleTimeoutMs', options.settleTimeoutMs ?? 30_000),
    ...keepaliveTimes(options),
    progressIntervalMs: nonNegative('progressIntervalMs', options.progressIntervalMs ?? 100),
  };
}

/**
 * Receives one migration from `listener`, which stays open: call again for the next one. Returns at once; see `IncomingMigration` for
 * the events, the controls and the result. Throws `GODWIT_INVALID_ARGUMENT` for an impossible option.
 *
 * @example
 * const incoming = receive(await listenOn(tcp({ host, port })), { prepare: (description) => buildVm(description) });
 * const { vm } = await incoming.result; // the guest runs here
 */
export function receive(listener: LinkListener, options: ReceiveOptions): IncomingMigration {
  return new IncomingMigration(listener, options);
}
