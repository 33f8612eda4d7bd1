import { abortable } from '../abortable.js';
import type { Clock } from '../clock.js';
import { ERROR_CODES, type ErrorCode, GodwitError } from '../errors.js';
import { settledWithin } from '../in-time.js';
import type { FrameStream, ReceivedFrame } from '../link/frame-stream.js';
import type { PageStream } from '../link/page-stream.js';
import type { Frame } from '../protocol/frame.js';
import type { FrameName } from '../protocol/frame-types.js';
import { isLegal, type PhaseName, type Role } from '../protocol/protocol-table.js';
import { CLOSING_MS, closeStreams } from './closing-message.js';
import { type KeepaliveTimes, keepAlive } from './keepalive.js';
import { Pings } from './pings.js';

type FrameOf<T extends FrameName> = Extract<Frame, { type: T }>;

/** Handles a frame that is legal in the role's phase. The next frame is read once it resolves, which is the back-pressure. */
export type FrameHandler = (received: ReceivedFrame) => void | Promise<void>;

export interface ConnectionParts<R extends Role> {
  readonly role: R;
  readonly clock: Clock;
  readonly control: FrameStream;
  /** The peer's address, for messages: `tcp://192.0.2.1:4444`. */
  readonly peer: string;
  /** The phase that the role is in, which decides the legal frames. Called for each frame. */
  readonly phase: () => PhaseName<R>;
  readonly handle: FrameHandler;
  /** Ends the connection when it aborts, in the same tick. `follow` can set it later. */
  readonly signal?: AbortSignal;
}

interface Waiter {
  readonly types: readonly FrameName[];
  readonly resolve: (frame: Frame) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * One connection of a migration, the same for both roles: the control stream and its page channels. It reads frames and dispatches them
 * by the protocol's table, resolves the promises of awaited answers, measures round trips, keeps the link alive, and closes it.
 *
 * When the connection is over, `signal` has aborted with the reason, and every frame read later is ignored. Once `drop` or
 * `close` has resolved, nothing of the connection touches guest memory.
 */
export class Connection<R extends Role = Role> {
  readonly control: FrameStream;
  readonly peer: string;
  /** Resolves with the reason when nothing more is read from the control stream. */
  readonly ended: Promise<GodwitError>;
  readonly #parts: ConnectionParts<R>;
  readonly #over = new AbortController();
  readonly #pings: Pings;
  readonly #waiters = new Set<Waiter>();
  /** Work that reads or writes guest memory for this connection. */
  readonly #borrowing = new Set<Promise<unknown>>();
  #phase: () => PhaseName<R>;
  #handle: FrameHandler;
  #pageChannels: readonly PageStream[] = [];
  #urgent: PageStream | undefined;
  #failure: GodwitError | undefined;
  #closed = false;
  #keptAlive = false;

  constructor(parts: ConnectionParts<R>) {
    const { control, clock, peer, signal, phase, handle } = parts;
    this.#parts = parts;
    this.control = control;
    this.peer = peer;
    this.#phase = phase;
    this.#handle = handle;
    this.#pings = new Pings(control, clock);
    if (signal !== undefined) this.follow(signal);
    this.ended = this.#readAll();
  }

  /** Makes the connection end when `signal` aborts, in the same tick. */
  follow(signal: AbortSignal): void {
    const onStop = () => this.end(signal.reason);
    if (signal.aborted) {
      onStop();
      return;
    }
    signal.addEventListener('abort', onStop, { once: true });
    this.signal.addEventListener('abort', () => signal.removeEventListener('abort', onStop), { once: true });
  }

  /** Aborts when the connection is over, with the reason. */
  get signal(): AbortSignal {
    return this.#over.signal;
  }

  get pageChannels(): readonly PageStream[] {
    return this.#pageChannels;
  }

  /** The stream on which the destination asks for pages for which a thread waits; undefined without post-copy. */
  get urgent(): PageStream | undefined {
    return this.#urgent;
  }

  /**
   * Adds the page channels to the connection, which ends and closes them with itself. `hasUrgent`: the last stream is the urgent
   * channel.
   */
  attach(streams: readonly PageStream[], hasUrgent = false): void {
    this.#urgent = hasUrgent ? streams.at(-1) : undefined;
    this.#pageChannels = hasUrgent ? streams.slice(0, -1) : streams;
    const { reason } = this.signal;
    if (this.signal.aborted) for (const stream of streams) stream.abort(reason as GodwitError);
  }

  /** Replaces the phase and the handler: another part of the role handles the frames that follow. */
  serve(phase: () => PhaseName<R>, handle: FrameHandler): void {
    this.#phase = phase;
    this.#handle = handle;
  }

  /** All streams; the first one is the control stream. */
  get streams(): readonly FrameStream[] {
    return [this.control, ...this.#pageChannels, ...(this.#urgent === undefined ? [] : [this.#urgent])];
  }

  /** Bytes that were written on all streams. */
  get bytesWritten(): number {
    return this.streams.reduce((sum, stream) => sum + stream.bytesWritten, 0);
  }

  get bytesRead(): number {
    return this.streams.reduce((sum, stream) => sum + stream.bytesRead, 0);
  }

  /** Why reading the control stream ended; `undefined` while frames are read. */
  get failure(): GodwitError | undefined {
    return this.#failure;
  }

  /** Starts keepalive: pings a quiet peer, and ends the link of a silent one. Later calls do nothing. */
  keepAlive(times: KeepaliveTimes): void {
    if (this.#keptAlive) return;
    this.#keptAlive = true;
    const { clock, role } = this.#parts;
    const peer = role === 'source' ? 'destination' : 'source';
    void keepAlive({ ...times, peer, clock, streams: () => this.streams, signal: this.signal });
  }

  /** Writes a frame; rejects as soon as the connection is over. */
  write(frame: Frame, payload?: readonly Uint8Array[]): Promise<void> {
    return abortable(this.control.write(frame, payload), this.signal);
  }

  /**
   * Resolves with the next frame of one of these types. Rejects when the stream fails, and with `GODWIT_INVALID_STATE` when another call
   * waits for one of the types already.
   */
  expect<T extends FrameName>(...types: readonly T[]): Promise<FrameOf<T>> {
    const answer = new Promise<FrameOf<T>>((resolve, reject) => {
      if (this.#failure !== undefined) {
        reject(this.#failure);
        return;
      }
      const other = [...this.#waiters].find((waiter) => waiter.types.some((type) => types.includes(type as T)));
      if (other !== undefined) {
        reject(new GodwitError('GODWIT_INVALID_STATE', `already waiting for ${quoted(other.types)}`));
        return;
      }
      this.#waiters.add({ types, resolve: (frame) => resolve(frame as FrameOf<T>), reject });
    });
    // The stream may fail before the caller awaits the answer: that must not be an unhandled rejection.
    answer.catch(() => {});
    return answer;
  }

  /** Cancels every wait for a frame of these types; the promise of such a wait never settles. */
  forget(...types: readonly FrameName[]): void {
    for (const waiter of this.#waiters) {
      if (waiter.types.some((type) => types.includes(type))) this.#waiters.delete(waiter);
    }
  }

  /** Writes `frame` and resolves with the answer, a frame of one of `types`; rejects as soon as the connection is over. */
  async ask<T extends FrameName>(frame: Frame, ...types: readonly T[]): Promise<FrameOf<T>> {
    const answer = this.expect(...types);
    await abortable(Promise.all([answer, this.control.write(frame)]), this.signal);
    return answer;
  }

  /** Resolves the wait for this type of frame; returns false when there is none. */
  answer(frame: Frame): boolean {
    for (const waiter of this.#waiters) {
      if (!waiter.types.includes(frame.type)) continue;
      this.#waiters.delete(waiter);
      waiter.resolve(frame);
      return true;
    }
    return false;
  }

  /** Measures the round trip: resolves with the milliseconds until the peer's engine has answered. */
  ping(): Promise<number> {
    return abortable(this.#pings.ping(), this.signal);
  }

  /** Registers work that touches guest memory: `idle`, `drop` and `close` wait until it has settled. Returns `work`. */
  borrow<T>(work: Promise<T>): Promise<T> {
    const settled = work.then(
      () => {},
      () => {},
    );
    this.#borrowing.add(settled);
    void settled.then(() => this.#borrowing.delete(settled));
    return work;
  }

  /** Resolves when nothing of the connection touches guest memory. */
  async idle(): Promise<void> {
    while (this.#borrowing.size > 0) await Promise.all(this.#borrowing);
  }

  /** Ends the connection: every later frame is ignored. The streams stay open until `drop` or `close`. */
  end(reason: GodwitError): void {
    this.#over.abort(reason);
  }

  /** Aborts every stream at once. Resolves when nothing of the connection touches guest memory. */
  async drop(reason: GodwitError): Promise<void> {
    this.end(reason);
    for (const stream of this.streams) stream.abort(reason);
    await Promise.all(this.streams.map((stream) => stream.settled?.()));
    await this.idle();
  }

  /**
   * Sends `error` to the peer, if there is one and the stream still works, and closes every stream. `retry`: the peer may connect again.
   * Resolves once nothing of the connection touches guest memory, with whether the peer is known to have read the message; that the
   * carrier has taken the message proves nothing when the cable is cut. `acceptedMs`: how long the carrier may take to accept the
   * message.
   */
  async close(error: GodwitError | undefined, retry = false, acceptedMs = CLOSING_MS): Promise<boolean> {
    const { clock } = this.#parts;
    const lost = isLost(this.#failure);
    const silent = error === undefined || error.remote || lost;
    // After wrong bytes of the peer nothing more is read, so that its answer cannot be seen: the carrier's acceptance of the message is
    // enough.
    const notReading = this.#failure !== undefined;
    this.end(error ?? new GodwitError('GODWIT_LINK_LOST', 'the migration is over'));
    const written = await closeStreams(this.streams, clock, silent ? undefined : { error, retry }, acceptedMs);
    await this.idle();
    if (written) await settledWithin(this.ended, clock, CLOSING_MS);
    const heard = this.#closed || this.#failure?.remote === true;
    return error === undefined || error.remote || (!lost && (notReading ? written : heard));
  }

  /**
   * The first cause of the end, after using the connection has failed with `error`. A broken stream has no reason, but the peer may have
   * sent one on the control stream, which is awaited for at most `CLOSING_MS`.
   */
  async cause(error: unknown): Promise<GodwitError> {
    const first: unknown = this.signal.aborted ? this.signal.reason : error;
    const reason = GodwitError.wrap(first, 'GODWIT_INTERNAL', 'the connection failed');
    if (!isLost(reason)) return reason;
    await settledWithin(this.ended, this.#parts.clock, CLOSING_MS);
    return this.#failure?.remote === true ? this.#failure : reason;
  }

  async #readAll(): Promise<GodwitError> {
    const peer = this.#parts.role === 'source' ? 'destination' : 'source';
    try {
      // The first frame is handled only after the constructor has returned.
      await Promise.resolve();
      for (;;) {
        const received = await this.control.read();
        this.#closed = received === null;
        if (received === null) throw closedBy(peer, this.control.bytesRead > 0);
        const { frame, payloadBytes } = received;
        if (frame.type === 'error') throw remoteError(frame, peer);
        // Frames read after the end are ignored; only an `error` frame, the peer's reason, still counts.
        if (this.signal.aborted) {
          if (payloadBytes > 0) await this.control.skipPayload();
          continue;
        }
        if (frame.type === 'ping') this.#pings.answer(frame.id);
        else if (frame.type === 'pong') this.#pings.answered(frame.id);
        else await this.#dispatch(received, peer);
      }
    } catch (error) {
      return this.#fail(GodwitError.wrap(error, 'GODWIT_LINK_LOST', 'the control stream failed'));
    }
  }

  async #dispatch(received: ReceivedFrame, peer: string): Promise<void> {
    const { type } = received.frame;
    const phase = this.#phase();
    if (!isLegal(this.#parts.role, phase, type)) {
      throw new GodwitError('GODWIT_PROTOCOL', `the ${peer} sent "${type}" on the control stream in phase "${phase}"`);
    }
    const handling = this.#handle(received);
    if (handling !== undefined) await this.borrow(handling);
  }

  #fail(error: GodwitError): GodwitError {
    this.#failure = error;
    for (const waiter of this.#waiters) waiter.reject(error);
    this.#waiters.clear();
    this.#pings.fail(error);
    this.end(error);
    return error;
  }
}

/** A peer that closes before its first frame may be another program that uses the port. */
function closedBy(peer: Role, hasSpoken: boolean): GodwitError {
  const why = hasSpoken
    ? ''
    : ' without a word: compare address and transport of both sides (a TLS port refuses plain TCP), and see its log';
  return new GodwitError('GODWIT_LINK_LOST', `the ${peer} closed the connection${why}`);
}

/** Whether `error` says that a stream broke on this side: the peer may have sent the reason on another stream. */
export function isLost(error: unknown): boolean {
  return GodwitError.is(error) && error.code === 'GODWIT_LINK_LOST' && !error.remote;
}

function quoted(types: readonly FrameName[]): string {
  return types.map((type) => `"${type}"`).join(' or ');
}

/** Makes an error of the peer's `error` frame. An unknown code (of a newer peer) becomes `GODWIT_INTERNAL`, and the message names it. */
export function remoteError(
  { code, message, retry = false }: { readonly code: string; readonly message: string; readonly retry?: boolean },
  role: Role,
): GodwitError {
  const known = (ERROR_CODES as readonly string[]).includes(code);
  return new GodwitError(
    known ? (code as ErrorCode) : 'GODWIT_INTERNAL',
    known ? `the ${role} failed: ${message}` : `the ${role} failed with ${code}: ${message}`,
    { remote: true, retry },
  );
}
