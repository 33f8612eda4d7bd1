import { nonNegative } from '../argument.js';
import { type Clock, systemClock } from '../clock.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import { checkEncodings } from '../encoding/check-encodings.js';
import { delta, type PageEncoding } from '../encoding/page-encoding.js';
import { GodwitError } from '../errors.js';
import { type KeepaliveOptions, keepaliveTimes } from '../link/keepalive.js';
import type { LinkListener } from '../link/migration-link.js';
import type { IncomingEvent, IncomingState } from '../migration-event.js';
import {
  DESTINATION_OWNERSHIP,
  type DestinationOwnershipEvent,
  type DestinationOwnershipState,
} from '../ownership/destination-ownership.js';
import { Ownership } from '../ownership/ownership.js';
import type { HelloFrame } from '../protocol/frame.js';
import { RoleEvents } from '../role-events.js';
import { IncomingRun, type Received } from './incoming-run.js';

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
  /** Gives up when it aborts; after `go` it does nothing. */
  readonly signal?: AbortSignal;
  /** Most bytes of state held for one device before it is loaded. Default 256 MiB. */
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
}

/**
 * A migration from the destination's side: an Observable of its events, with a promise of the result.
 *
 * Starts by itself, one microtask after `receive` has returned. The stream completes when the guest runs here and ends
 * with a `GodwitError` otherwise; unsubscribing the last subscriber before `go` gives up.
 *
 * A source whose link is lost may come back over another one, through the same listener: keep it open until the end. Once
 * everything is loaded the incoming migration waits for the source for as long as it takes, and ends only by `go`, by the source's
 * word that it keeps the guest, by `cancel`, or by `recover` (docs/switchover.md).
 */
export class IncomingMigration extends RoleEvents<IncomingEvent> {
  /** Resolves when the guest runs here, with the VM that `prepare` built. */
  readonly result: Promise<Received>;
  readonly #stop = new AbortController();
  readonly #run: IncomingRun;
  readonly #ownership: Ownership<DestinationOwnershipState, DestinationOwnershipEvent>;
  #state: IncomingState = 'none';

  /** @internal Use `receive`. */
  constructor(listener: LinkListener, options: ReceiveOptions) {
    super();
    this.#ownership = new Ownership(DESTINATION_OWNERSHIP, (ownership, previous) =>
      this.events.next({ type: 'ownership', ownership, previous }),
    );
    this.#run = new IncomingRun(listener, {
      clock: options.clock ?? systemClock,
      signal: this.#stop.signal,
      stop: (error) => this.#stop.abort(error),
      emit: (event) => this.events.next(event),
      setState: (state) => this.#setState(state),
      ownership: this.#ownership,
      prepare: options.prepare,
      encodings: checkEncodings(options.encodings ?? [delta()]),
      maximumDeviceState: options.maximumDeviceState ?? 256 * 2 ** 20,
      handshakeTimeoutMs: nonNegative('handshakeTimeoutMs', options.handshakeTimeoutMs ?? 30_000),
      reconnectTimeoutMs: nonNegative('reconnectTimeoutMs', options.reconnectTimeoutMs ?? 30_000),
      settleTimeoutMs: nonNegative('settleTimeoutMs', options.settleTimeoutMs ?? 30_000),
      ...keepaliveTimes(options),
      progressIntervalMs: nonNegative('progressIntervalMs', options.progressIntervalMs ?? 100),
    });
    this.result = Promise.resolve().then(() => this.#start(options.signal));
    this.result.catch(() => {});
  }

  get state(): IncomingState {
    return this.#state;
  }

  /** Whether the guest may run here, as far as the destination knows. */
  get ownership(): DestinationOwnershipState {
    return this.#ownership.state;
  }

  /**
   * Runs the guest here, on the caller's word that the source is dead, while everything is loaded and `go` has not come
   * (`ownership` is `ready`). If the word is wrong, the guest runs twice. `result` tells how it went. Throws
   * `GODWIT_INVALID_STATE` at any other time.
   */
  recover({ sourceIsDead }: { readonly sourceIsDead: true }): void {
    if (sourceIsDead !== true) {
      throw new GodwitError('GODWIT_INVALID_ARGUMENT', 'recover() wants { sourceIsDead: true }: say it, and be sure');
    }
    if (this.#stop.signal.aborted) {
      throw new GodwitError(
        'GODWIT_INVALID_STATE',
        'the incoming migration has been cancelled: its guest never runs here',
      );
    }
    this.#run.recover();
  }

  /** Refuses the migration: the guest stays at the source. Returns false after `go`, after the end and once it is failing. */
  override cancel(reason = 'cancelled by the caller'): boolean {
    if (!this.#ownership.allows('fail') || this.#stop.signal.aborted || this.#state === 'failed') return false;
    this.#stop.abort(new GodwitError('GODWIT_CANCELLED', `the destination gave up: ${reason}`));
    return true;
  }

  async #start(signal: AbortSignal | undefined): Promise<Received> {
    const onAbort = () => this.cancel(`the signal aborted: ${String(signal?.reason)}`);
    if (signal?.aborted) onAbort();
    else signal?.addEventListener('abort', onAbort, { once: true });
    try {
      const received = await this.#run.execute();
      this.#setState('completed');
      this.events.next({ type: 'completed', summary: received.summary });
      this.events.complete();
      return received;
    } catch (error) {
      const failure = GodwitError.wrap(error, 'GODWIT_INTERNAL', 'the incoming migration failed');
      this.#setState('failed');
      this.events.error(failure);
      throw failure;
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  #setState(state: IncomingState): void {
    const previous = this.#state;
    this.#state = state;
    this.events.next({ type: 'state', state, previous });
  }
}

/** Takes one migration from `listener`, which stays open: call again for the next one. */
export function receive(listener: LinkListener, options: ReceiveOptions): IncomingMigration {
  return new IncomingMigration(listener, options);
}
