import { nonNegative } from '../argument.js';
import { type Clock, systemClock } from '../clock.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import { checkEncodings } from '../encoding/check-encodings.js';
import { delta, type PageEncoding } from '../encoding/page-encoding.js';
import { GodwitError } from '../errors.js';
import { HANDSHAKE_TIMEOUT_MS, type LinkListener } from '../link/migration-link.js';
import type { IncomingEvent, IncomingState, IncomingStatus } from '../migration-event.js';
import {
  DESTINATION_OWNERSHIP,
  type DestinationOwnershipEvent,
  type DestinationOwnershipState,
} from '../ownership/destination-ownership.js';
import { Ownership } from '../ownership/ownership.js';
import { localAuthority, type OwnershipAuthority } from '../ownership/ownership-authority.js';
import type { HelloFrame } from '../protocol/frame.js';
import { RoleEvents } from '../role-events.js';
import { type KeepaliveOptions, keepaliveTimes } from '../session/keepalive.js';
import { Arrived, type DestinationContext, type DestinationPhase, type Received } from './destination-context.js';
import { DestinationSession } from './destination-session.js';
import { Load } from './phases/load.js';
import { Receive } from './phases/receive.js';
import { Release } from './phases/release.js';
import { SetUp } from './phases/set-up.js';
import { TakeOver } from './phases/take-over.js';
import { rollBack } from './roll-back.js';

export interface ReceiveOptions extends KeepaliveOptions {
  /**
   * Builds the VM that will become the source's, from the source's own description of it: same RAM blocks, same devices,
   * not running. Throw to refuse; the source hears the message. The engine clears its RAM.
   */
  readonly prepare: (description: unknown, hello: HelloFrame) => MigratableVm | Promise<MigratableVm>;
  /**
   * Encodings of pages that a source may use. Default: `[delta()]`, which takes nothing here; compressions come from other
   * packages. One that only the source has is told to both sides.
   */
  readonly encodings?: readonly PageEncoding[];
  /**
   * What the guest does here: `run` (the default) goes on with what it did at the source, so that one that its user had paused stays
   * paused; `pause` leaves it paused in any case.
   */
  readonly onArrival?: 'run' | 'pause';
  /** Takes only the migration with this id, 32 hex digits (`MigrateOptions.migrationId`). Default: the first that comes. */
  readonly migrationId?: string;
  /** Who decides whose the guest is. Default: the two sides, by `go`. */
  readonly authority?: OwnershipAuthority;
  /** Gives up when it aborts; after `go` it does nothing. */
  readonly signal?: AbortSignal;
  /**
   * Most bytes of device state held before they are loaded, of all devices together: the source waits, with its guest running, for
   * what comes while it runs, and is refused at once where its devices would save more. Default 256 MiB.
   */
  readonly maximumDeviceState?: number;
  /** Once a source has connected: how long it may take to say hello, and to attach its page channels. Default 30,000. */
  readonly handshakeTimeoutMs?: number;
  /**
   * While the state is incomplete: how long a source whose link was lost may take to come back before the migration ends
   * with `GODWIT_LINK_LOST`. Milliseconds; default 30,000. Once all is loaded nothing ends by itself: `go` may be on its way.
   */
  readonly reconnectTimeoutMs?: number;
  /**
   * With the guest running here: how long the source, if its link was lost, may take to come back and be told so. Then the
   * incoming migration completes with a warning. Milliseconds; default 30,000, at least 1,000.
   */
  readonly settleTimeoutMs?: number;
  /** Milliseconds between `progress` events; default 100; 0 for none. */
  readonly progressIntervalMs?: number;
  readonly clock?: Clock;
  /** Numbers from 0 to below 1, for the name of the VM that is built (`incarnation`). Default: cryptographic ones. */
  readonly random?: () => number;
}

/**
 * A migration from the destination's side: an Observable of its events, with controls and a promise of the result.
 *
 * Starts by itself, one microtask after `receive` has returned. Observing never controls, and the stream never ends with an error: a
 * failure is its last event (`failed`). Whoever subscribes late gets the present status first.
 *
 * A source whose link is lost may come back over another one, through the same listener: keep it open until the end. Once
 * everything is loaded the destination waits for the source for as long as it takes, and ends only by `go`, by the source's
 * word that it keeps the guest or goes back to pre-copy, by `cancel`, or by `recover` (docs/switchover.md).
 *
 * @example
 * const incoming = receive(await listenOn(tcp({ host, port })), { prepare: (description) => buildVm(description) });
 * const { vm } = await incoming.result; // the guest runs here
 */
export class IncomingMigration extends RoleEvents<IncomingEvent> {
  /** Resolves when the guest is here, with the VM that `prepare` built. */
  readonly result: Promise<Received>;
  readonly #context: DestinationContext;
  #state: IncomingState = 'none';
  #error: GodwitError | undefined;
  #started = false;

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
      ...{ vm: undefined, claim: undefined, arriving: undefined, serving: undefined },
    };
    this.result = Promise.resolve().then(() => this.#start(options.signal));
    this.result.catch(() => {});
  }

  get state(): IncomingState {
    return this.#state;
  }

  /** Whether the guest may run here, as far as the destination knows. */
  get ownership(): DestinationOwnershipState {
    return this.#context.ownership.state;
  }

  /** Where it stands, at any time. */
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
    };
  }

  /**
   * Runs the guest here, on the caller's word that the source is dead, while everything is loaded and `go` has not come
   * (`ownership` is `ready`). The ownership authority is asked first. If the word is wrong, the guest runs twice. `result` tells how
   * it went. Rejects with `GODWIT_INVALID_STATE` at any other time, and with `GODWIT_NOT_OWNER` where the authority says no: the
   * destination then waits on.
   */
  async recover({ sourceIsDead }: { readonly sourceIsDead: true }): Promise<void> {
    if (sourceIsDead !== true) {
      throw new GodwitError('GODWIT_INVALID_ARGUMENT', 'recover() wants { sourceIsDead: true }: say it, and be sure');
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

  /** Refuses the migration: the guest stays at the source. Returns false after `go`, after the end and once it is failing. */
  cancel(reason = 'cancelled by the caller'): boolean {
    const { ownership, session } = this.#context;
    if (!ownership.allows('fail') || session.signal.aborted || this.#state === 'failed') return false;
    session.end.set(new GodwitError('GODWIT_CANCELLED', `the destination gave up: ${reason}`));
    return true;
  }

  /** Cancels, where that is still possible, and resolves when it is over. Never rejects. */
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

function resolve(options: ReceiveOptions) {
  const { migrationId, onArrival = 'run' } = options;
  if (migrationId !== undefined && !/^[0-9a-f]{32}$/.test(migrationId)) {
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `migrationId must be 32 hex digits, got "${migrationId}"`);
  }
  if (onArrival !== 'run' && onArrival !== 'pause') {
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `onArrival must be "run" or "pause", got "${String(onArrival)}"`);
  }
  return {
    clock: options.clock ?? systemClock,
    random: options.random,
    prepare: options.prepare,
    migrationId,
    onArrival,
    authority: options.authority ?? localAuthority,
    encodings: checkEncodings(options.encodings ?? [delta()]),
    maximumDeviceState: nonNegative('maximumDeviceState', options.maximumDeviceState ?? 256 * 2 ** 20),
    handshakeTimeoutMs: nonNegative('handshakeTimeoutMs', options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS),
    reconnectTimeoutMs: nonNegative('reconnectTimeoutMs', options.reconnectTimeoutMs ?? 30_000),
    settleTimeoutMs: nonNegative('settleTimeoutMs', options.settleTimeoutMs ?? 30_000),
    ...keepaliveTimes(options),
    progressIntervalMs: nonNegative('progressIntervalMs', options.progressIntervalMs ?? 100),
  };
}

/** Takes one migration from `listener`, which stays open: call again for the next one. */
export function receive(listener: LinkListener, options: ReceiveOptions): IncomingMigration {
  return new IncomingMigration(listener, options);
}
