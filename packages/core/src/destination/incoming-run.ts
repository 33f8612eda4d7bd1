import { abortable } from '../abortable.js';
import type { Clock } from '../clock.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import { agreeOn } from '../encoding/agree-on.js';
import type { PageEncoding } from '../encoding/page-encoding.js';
import { GodwitError } from '../errors.js';
import { inTime } from '../in-time.js';
import { CLOSING_MS, isLinkLost } from '../link/closing-message.js';
import type { KeepaliveTimes } from '../link/keepalive.js';
import type { LinkListener } from '../link/migration-link.js';
import { checkGuestMemory } from '../memory/check-guest-memory.js';
import { MemoryWindows } from '../memory/memory-windows.js';
import type { IncomingEvent, IncomingState, IncomingSummary } from '../migration-event.js';
import type { DestinationOwnershipEvent, DestinationOwnershipState } from '../ownership/destination-ownership.js';
import type { Ownership } from '../ownership/ownership.js';
import type { HelloFrame, WelcomeFrame } from '../protocol/frame.js';
import {
  checkCompatible,
  checkHello,
  chooseVersion,
  FEATURES,
  MAXIMUM_PAYLOAD,
  SOFTWARE,
} from '../protocol/negotiate.js';
import { DeviceLoader } from './device-loader.js';
import { IncomingConnection, type ReceivedState } from './incoming-connection.js';
import { type IncomingLinks, incomingLinks, type PendingConnection } from './incoming-links.js';
import { RamCheck } from './ram-check.js';
import { SourceReturns } from './source-returns.js';
import { makePristine } from './zero-run.js';

export interface IncomingControls extends KeepaliveTimes {
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly stop: (error: GodwitError) => void;
  readonly emit: (event: IncomingEvent) => void;
  readonly setState: (state: IncomingState) => void;
  readonly ownership: Ownership<DestinationOwnershipState, DestinationOwnershipEvent>;
  readonly prepare: (description: unknown, hello: HelloFrame) => MigratableVm | Promise<MigratableVm>;
  readonly encodings: readonly PageEncoding[];
  readonly maximumDeviceState: number;
  readonly handshakeTimeoutMs: number;
  readonly reconnectTimeoutMs: number;
  readonly settleTimeoutMs: number;
  readonly progressIntervalMs: number;
}

export interface Received {
  readonly vm: MigratableVm;
  readonly summary: IncomingSummary;
}

/** One migration at the destination, from `hello` to `released`, over as many connections as the source makes. */
export class IncomingRun {
  readonly #router: IncomingLinks;
  readonly #controls: IncomingControls;
  #vm: MigratableVm | undefined;
  #state: ReceivedState | undefined;
  #migrationId: string | undefined;
  #connection: IncomingConnection | undefined;
  #returns: SourceReturns | undefined;
  #linkLost = false;
  /** The last connection whose bytes are among the past ones. */
  #counted: IncomingConnection | undefined;
  /** Bytes read from connections that are over. */
  #pastBytes = 0;
  /** The source has heard how it ended, or has said so itself. */
  #told = false;
  /** Why the migration ends without us. */
  #failed: GodwitError | undefined;

  constructor(listener: LinkListener, controls: IncomingControls) {
    this.#router = incomingLinks(listener);
    this.#controls = controls;
  }

  /** Resolves when the guest runs here. Rejects otherwise; the VM that was prepared is then abandoned. */
  async execute(): Promise<Received> {
    const over = new AbortController();
    const reporting = this.#reportProgress(over.signal);
    try {
      return await this.#receive();
    } catch (error) {
      throw await this.#fallBack(error);
    } finally {
      this.#finish();
      over.abort();
      await reporting;
    }
  }

  /** The source is dead, says the embedder: a guest that is complete here runs here. */
  recover(): void {
    this.#controls.ownership.apply('recover');
    this.#controls.ownership.apply('granted');
    const over = new GodwitError('GODWIT_RECOVERED', 'the source was declared dead; the guest runs here');
    this.#connection?.end(over);
    this.#returns?.close(over);
  }

  async #receive(): Promise<Received> {
    const { signal, setState, clock, ownership } = this.#controls;
    const pending = await this.#router.next(this.#controls);
    setState('setup');
    const { hello } = pending;
    this.#connection = new IncomingConnection(pending, this.#controls);
    checkHello(hello);
    this.#migrationId = hello.migrationId;
    this.#returns = new SourceReturns(hello, this.#controls, () => this.#connection);
    this.#router.register(hello.migrationId, this.#returns);
    const state = await this.#welcome(pending);
    this.#state = state;
    setState('active');
    await this.#untilOurs(state);
    signal.throwIfAborted();

    setState('device');
    const start = clock.now();
    try {
      // Pings are answered meanwhile; a link that is lost meanwhile changes nothing.
      const resuming = state.vm.resume();
      await this.#current.frames.during(resuming, 'running').catch((error: unknown) => {
        this.#linkLost = isLinkLost(error);
        return resuming;
      });
    } catch (error) {
      if (ownership.allows('strand')) ownership.apply('strand');
      throw GodwitError.wrap(
        error,
        'GODWIT_VM_FAILED',
        'the guest was handed over, but could not be started at the destination',
      );
    }
    const resumeMs = clock.now() - start;
    this.#controls.emit({ type: 'running', resumeMs });
    if (ownership.state === 'running') await this.#tellSource(resumeMs);
    await this.#connection.closeWithMessage(undefined);
    const summary: IncomingSummary = {
      migrationId: hello.migrationId,
      rounds: (state.receiver?.round ?? 1) - 1,
      pages: state.receiver?.totals ?? { raw: 0, zero: 0, delta: 0, compressed: 0 },
      wireBytes: this.#bytesRead(),
      loadMs: state.loadMs,
      resumeMs,
      verified: state.check.passed,
    };
    return { vm: state.vm, summary };
  }

  /** Builds the VM that will become the source's, and agrees to it. */
  async #welcome({ hello, link, frames }: PendingConnection): Promise<ReceivedState> {
    const { emit, clock, stop, maximumDeviceState } = this.#controls;
    const connection = this.#connection as IncomingConnection;
    const { signal } = connection;
    const version = chooseVersion(hello);
    emit({ type: 'hello', migrationId: hello.migrationId, peer: link.peer, description: hello.description });
    const vm = await abortable(frames.during(this.#prepare(hello), 'welcome'), signal);
    checkGuestMemory(vm.memory);
    checkCompatible(hello, vm);
    const windows = new MemoryWindows(vm.memory);
    const pristine = connection.reading(makePristine(windows, clock, signal));
    await abortable(frames.during(pristine, 'welcome'), signal);
    const { encodings, features: agreed, missing } = agreeOn(hello.features, this.#controls.encodings);
    const own = [FEATURES.verify, ...(link.control.checksums === true ? [FEATURES.checksum] : [])] as readonly string[];
    const features = [...hello.features.filter((feature) => own.includes(feature)), ...agreed];
    for (const name of missing) {
      const message = `the source offers the encoding "${name}", which receive was not given`;
      emit({ type: 'warning', code: 'GODWIT_UNSUPPORTED', message });
    }
    const maximumPayload = MAXIMUM_PAYLOAD;
    const welcome: WelcomeFrame = {
      type: 'welcome',
      version,
      features,
      software: SOFTWARE,
      maximumPayload,
      incarnation: '0'.repeat(32),
      maximumDeviceState,
    };
    await abortable(link.control.write(welcome), signal);
    return {
      vm,
      windows,
      welcome,
      encodings,
      loader: new DeviceLoader(vm, hello.devices, maximumDeviceState, stop),
      check: new RamCheck(windows, clock, features.includes(FEATURES.verify)),
      receiver: undefined,
      loadMs: 0,
    };
  }

  /** Resolves when the guest is ours: by `go`, or on the embedder's word. A source whose link is lost may come back. */
  async #untilOurs(state: ReceivedState): Promise<void> {
    const { ownership } = this.#controls;
    for (let answered = true; ; answered = await this.#sourceReturned(state)) {
      if (ownership.mayRunGuest) return;
      if (!answered) continue;
      try {
        await this.#current.untilGo(state);
        return;
      } catch (error) {
        await this.#lost(error);
      }
    }
  }

  /**
   * Throws `error` unless it only says that the link was lost; then lets go of everything that belongs to it. Once all is
   * loaded, nothing but the source's own word ends it: what came may have been a `go` that the link has garbled.
   */
  async #lost(error: unknown): Promise<void> {
    const { signal, ownership, emit } = this.#controls;
    const connection = this.#current;
    // A page channel that the source misuses is no lost link, though the control stream may say so first.
    const first: unknown = isLinkLost(error) && connection.signal.aborted ? connection.signal.reason : error;
    if (ownership.state === 'recovered') return;
    signal.throwIfAborted();
    const reason = GodwitError.wrap(first, 'GODWIT_INTERNAL', 'the connection failed');
    if (!isLinkLost(reason) && (ownership.state !== 'ready' || reason.remote)) throw reason;
    await this.#drop(connection, reason);
    this.#linkLost = true;
    signal.throwIfAborted();
    emit({ type: 'link-lost', reason });
  }

  /**
   * Waits for the source to come back and tells it how far the migration is here; false when that link is lost too. While
   * the state is incomplete the wait ends after `reconnectTimeoutMs`; once it is complete, `go` may be on its way, and it
   * never ends by itself.
   */
  async #sourceReturned(state: ReceivedState): Promise<boolean> {
    const { ownership, clock, reconnectTimeoutMs, emit, signal } = this.#controls;
    const returns = this.#returns as SourceReturns;
    try {
      const coming = abortable(returns.next(), signal);
      const pending = await (ownership.state === 'ready'
        ? coming
        : inTime(coming, clock, reconnectTimeoutMs, () => this.#notBack(reconnectTimeoutMs)));
      this.#linkLost = false;
      this.#connection = new IncomingConnection(pending, this.#controls);
    } catch (error) {
      if (ownership.state === 'recovered') return false;
      throw error;
    }
    const { hello, link } = this.#current;
    const { state: name } = ownership;
    if (name !== 'receiving' && name !== 'ready') return false;
    try {
      await this.#current.resumed(name, state);
      emit({ type: 'reconnected', connection: hello.connection, peer: link.peer });
      if (hello.stage === 'kept') await this.#current.lastWords();
      return true;
    } catch (error) {
      await this.#lost(error);
      return false;
    }
  }

  /** The guest runs here; says so until the source has let go of its copy, or for as long as that is worth it. */
  async #tellSource(resumeMs: number): Promise<void> {
    const { ownership, clock, settleTimeoutMs, emit } = this.#controls;
    const within = Math.max(settleTimeoutMs, CLOSING_MS);
    const giveUp = new AbortController();
    const telling = this.#untilReleased(resumeMs, giveUp.signal);
    try {
      await inTime(telling, clock, within, () => new GodwitError('GODWIT_TIMEOUT', 'it has not come back'));
      this.#told = true;
      ownership.apply('released');
    } catch (error) {
      giveUp.abort(error);
      ownership.apply('giveUp');
      emit({
        type: 'warning',
        code: 'GODWIT_LINK_LOST',
        message:
          `the guest runs here, but the source has not said within settleTimeoutMs (${settleTimeoutMs} ms) that it knows: ` +
          `its copy may still exist, paused (${error instanceof Error ? error.message : String(error)})`,
      });
    }
  }

  async #untilReleased(resumeMs: number, signal: AbortSignal): Promise<void> {
    const returns = this.#returns as SourceReturns;
    for (let first = true; ; first = false) {
      const connection = this.#current;
      try {
        connection.signal.throwIfAborted();
        if (first) await connection.link.control.write({ type: 'running', resumeMs, sinceReadyMs: 0 });
        else await connection.resumed('running', this.#state as ReceivedState);
        await connection.untilReleased();
        return;
      } catch (error) {
        // Whatever it was, the guest runs here: the source may come back and ask.
        const reason = GodwitError.wrap(error, 'GODWIT_LINK_LOST', 'telling the source failed');
        await this.#drop(connection, reason);
        this.#controls.emit({ type: 'link-lost', reason });
      }
      const pending = await abortable(returns.next(), signal);
      this.#connection = new IncomingConnection(pending, this.#controls);
    }
  }

  get #current(): IncomingConnection {
    if (this.#connection === undefined) throw new GodwitError('GODWIT_INTERNAL', 'there was no first connection');
    return this.#connection;
  }

  async #prepare(hello: HelloFrame): Promise<MigratableVm> {
    try {
      const vm = await this.#controls.prepare(hello.description, hello);
      this.#vm = vm;
      // Nobody waits for it any more.
      if (this.#failed !== undefined) await this.#abandon(this.#failed);
      return vm;
    } catch (error) {
      throw GodwitError.wrap(error, 'GODWIT_PREPARE_FAILED', 'the destination could not build the VM');
    }
  }

  #notBack(reconnectTimeoutMs: number): GodwitError {
    const { reason } = this.#current.signal;
    return new GodwitError(
      'GODWIT_LINK_LOST',
      `the link was lost (${GodwitError.is(reason) ? reason.message : String(reason)}) and the source has not come back within reconnectTimeoutMs (${reconnectTimeoutMs} ms)`,
      { cause: reason },
    );
  }

  /** The source hears why, every stream is let go, and the VM that will never run is abandoned. */
  async #fallBack(cause: unknown): Promise<GodwitError> {
    const { stop, signal, ownership } = this.#controls;
    const first: unknown = signal.aborted && !ownership.mayRunGuest ? signal.reason : cause;
    const error = GodwitError.wrap(first, 'GODWIT_INTERNAL', 'the incoming migration failed');
    this.#failed = error;
    if (ownership.allows('fail')) ownership.apply('fail');
    const connection = this.#connection;
    // Told over the link that is there, if it is; a source that comes back is told by the router.
    stop(error);
    this.#state?.loader.fail(error);
    this.#returns?.close(error);
    const said = (await connection?.closeWithMessage(error)) ?? false;
    this.#told = error.remote || (said && !this.#linkLost);
    if (ownership.state === 'abandoned') await this.#abandon(error);
    return error;
  }

  async #abandon(error: GodwitError): Promise<void> {
    const vm = this.#vm;
    this.#vm = undefined;
    try {
      await vm?.abandon?.(error);
    } catch (abandonError) {
      this.#controls.emit({
        type: 'warning',
        code: 'GODWIT_VM_FAILED',
        message: `the VM that will not run could not be abandoned: ${String(abandonError)}`,
      });
    }
  }

  /** From now on the router answers for this migration. */
  #finish(): void {
    const over = this.#failed ?? new GodwitError('GODWIT_LINK_LOST', 'the migration is over');
    this.#returns?.close(over);
    if (this.#migrationId === undefined || this.#returns === undefined) return;
    const { state } = this.#controls.ownership;
    this.#router.finish(this.#migrationId, { state, reason: this.#failed, told: this.#told });
  }

  async #drop(connection: IncomingConnection, reason: GodwitError): Promise<void> {
    await connection.drop(reason);
    this.#pastBytes += connection.bytesRead;
    this.#counted = connection;
  }

  #bytesRead(): number {
    const current = this.#connection === this.#counted ? 0 : (this.#connection?.bytesRead ?? 0);
    return this.#pastBytes + current;
  }

  async #reportProgress(over: AbortSignal): Promise<void> {
    const { clock, emit, progressIntervalMs } = this.#controls;
    if (progressIntervalMs === 0) return;
    try {
      for (;;) {
        await clock.sleep(progressIntervalMs, over);
        const receiver = this.#state?.receiver;
        if (receiver === undefined) continue;
        emit({ type: 'progress', pages: receiver.totals, wireBytes: this.#bytesRead() });
      }
    } catch {
      // The migration is over.
    }
  }
}
