import { abortable } from '../abortable.js';
import type { Clock } from '../clock.js';
import { ERROR_CODES, type ErrorCode, GodwitError } from '../errors.js';
import { settledWithin } from '../in-time.js';
import type { FrameStream, ReceivedFrame } from '../link/frame-stream.js';
import type { PageStream } from '../link/page-stream.js';
import type { Frame, FrameName } from '../protocol/frame.js';
import { isLegal, type PhaseName, type Role } from '../protocol/protocol-table.js';
import { CLOSING_MS, closeStreams } from './closing-message.js';
import { type KeepaliveTimes, keepAlive } from './keepalive.js';
import { Pings } from './pings.js';

type FrameOf<T extends FrameName> = Extract<Frame, { type: T }>;

/** What a role does with a legal frame. The next one is read when it resolves: that is the back-pressure. */
export type FrameHandler = (received: ReceivedFrame) => void | Promise<void>;

export interface ConnectionParts<R extends Role> {
  readonly role: R;
  readonly clock: Clock;
  readonly control: FrameStream;
  /** For messages: `tcp://192.0.2.1:4444`. */
  readonly peer: string;
  /** The phase that the role is in: which frames may come. Asked for each frame. */
  readonly phase: () => PhaseName<R>;
  readonly handle: FrameHandler;
  /** Ends the connection when it aborts, in the same tick. Without it: see `follow`. */
  readonly signal?: AbortSignal;
}

interface Waiter {
  readonly types: readonly FrameName[];
  readonly resolve: (frame: Frame) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * One connection of a migration, the same for both roles: the control stream and the page channels beside it, reading and
 * dispatch by the protocol's table, answers that are waited for, pings, keepalive, and the end.
 *
 * When it is over, for whatever reason, `signal` has aborted with that reason, and every frame that is still read is ignored;
 * once `drop` or `close` has resolved, nothing of it touches guest memory any more.
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
  #failure: GodwitError | undefined;
  #closed = false;
  #finished = false;
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

  /** From now on the connection ends when `signal` aborts, in the same tick. */
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

  /** From now on these streams belong to the connection. */
  attach(pageChannels: readonly PageStream[]): void {
    this.#pageChannels = pageChannels;
    const { reason } = this.signal;
    if (this.signal.aborted) for (const stream of pageChannels) stream.abort(reason as GodwitError);
  }

  /** From now on another part of the role takes the frames. */
  serve(phase: () => PhaseName<R>, handle: FrameHandler): void {
    this.#phase = phase;
    this.#handle = handle;
  }

  /** All streams; the first one is the control stream. */
  get streams(): readonly FrameStream[] {
    return [this.control, ...this.#pageChannels];
  }

  /** Bytes of all streams that were written. */
  get bytesWritten(): number {
    return this.streams.reduce((sum, stream) => sum + stream.bytesWritten, 0);
  }

  get bytesRead(): number {
    return this.streams.reduce((sum, stream) => sum + stream.bytesRead, 0);
  }

  /** Why nothing more comes on the control stream; `undefined` while it is well. */
  get failure(): GodwitError | undefined {
    return this.#failure;
  }

  /** From here on a peer that says nothing is noticed, and hears from us. Once. */
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

  /** The next frame of one of these types, which nobody else may be waiting for. Rejects when the stream fails. */
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
    // It may fail long before somebody awaits it.
    answer.catch(() => {});
    return answer;
  }

  /** Nobody waits for frames of these types any more. */
  forget(...types: readonly FrameName[]): void {
    for (const waiter of this.#waiters) {
      if (waiter.types.some((type) => types.includes(type))) this.#waiters.delete(waiter);
    }
  }

  /** Writes `frame` and resolves with the answer to it; rejects as soon as the connection is over. */
  async ask<T extends FrameName>(frame: Frame, ...types: readonly T[]): Promise<FrameOf<T>> {
    const answer = this.expect(...types);
    await abortable(Promise.all([answer, this.control.write(frame)]), this.signal);
    return answer;
  }

  /** Hands a frame to whoever waits for it; false when nobody does. */
  answer(frame: Frame): boolean {
    for (const waiter of this.#waiters) {
      if (!waiter.types.includes(frame.type)) continue;
      this.#waiters.delete(waiter);
      waiter.resolve(frame);
      return true;
    }
    return false;
  }

  /** Measures the round trip: milliseconds until the peer's engine has answered. */
  ping(): Promise<number> {
    return abortable(this.#pings.ping(), this.signal);
  }

  /** Registers work that touches guest memory: the connection is not over before it has settled. */
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

  /** From now on every frame is ignored; streams are let go of by `drop` or `close`. */
  end(reason: GodwitError): void {
    this.#over.abort(reason);
  }

  /** Drops the connection at once. Resolves when nothing of it touches guest memory any more. */
  async drop(reason: GodwitError): Promise<void> {
    this.#finished = true;
    this.end(reason);
    for (const stream of this.streams) stream.abort(reason);
    await Promise.all(this.streams.map((stream) => stream.settled?.()));
    await this.idle();
  }

  /**
   * Tells the peer why, as far as it still listens, and lets go of every stream. Without `error`, just ends. `retry`: the peer may
   * come back over another connection. Resolves with whether the peer is known to have read it, once nothing of the connection
   * touches guest memory any more: that the carrier has taken the words says little where the cable is cut.
   */
  async close(error: GodwitError | undefined, retry = false): Promise<boolean> {
    const { clock } = this.#parts;
    const deaf = isLost(this.#failure);
    const silent = error === undefined || error.remote || deaf;
    // Bytes that came were wrong, and nothing more of them is read: that the carrier takes the message has to do.
    const notReading = !deaf && this.#failure !== undefined;
    this.#finished = true;
    this.end(error ?? new GodwitError('GODWIT_LINK_LOST', 'the migration is over'));
    const said = await closeStreams(this.streams, clock, silent ? undefined : { error, retry });
    await this.idle();
    if (said) await settledWithin(this.ended, clock, CLOSING_MS);
    const heard = this.#closed || this.#failure?.remote === true;
    return error === undefined || error.remote || (!deaf && (notReading ? said : heard));
  }

  /**
   * Why the connection is over, after `error` came from using it: the first cause, as far as it can be known. A stream that broke
   * says nothing, and the peer may have told the reason on the control stream: that is waited for, a moment.
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
      // The maker of the connection is to know of it before the first frame is handled.
      await Promise.resolve();
      for (;;) {
        const received = await this.control.read();
        this.#closed = received === null;
        if (received === null) throw new GodwitError('GODWIT_LINK_LOST', `the ${peer} closed the connection`);
        const { frame, payloadBytes } = received;
        if (frame.type === 'error') throw remoteError(frame, peer);
        // What is read after the end is ignored; the reason for the end may still come.
        if (this.signal.aborted) {
          if (payloadBytes > 0) await this.control.skipPayload();
          continue;
        }
        if (frame.type === 'ping') this.#pings.answer(frame.id);
        else if (frame.type === 'pong') this.#pings.answered(frame.id);
        else await this.#take(received, peer);
      }
    } catch (error) {
      return this.#fail(GodwitError.wrap(error, 'GODWIT_LINK_LOST', 'the control stream failed'));
    }
  }

  async #take(received: ReceivedFrame, peer: string): Promise<void> {
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
    if (!this.#finished) this.end(error);
    return error;
  }
}

/** Whether `error` only says that a stream broke: the peer may have told the reason on another one. */
export function isLost(error: unknown): boolean {
  return GodwitError.is(error) && error.code === 'GODWIT_LINK_LOST' && !error.remote;
}

function quoted(types: readonly FrameName[]): string {
  return types.map((type) => `"${type}"`).join(' or ');
}

/** An error that the peer reported. An unknown code (of a newer peer) becomes `GODWIT_INTERNAL`, named in the message. */
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
