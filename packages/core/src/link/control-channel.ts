import type { Clock } from '../clock.js';
import { ERROR_CODES, type ErrorCode, GodwitError } from '../errors.js';
import type { Frame, FrameName } from './frame.js';
import type { FrameStream } from './frame-stream.js';

/**
 * The source's view of the control stream: what the destination answers, in order, with `error` and `pong` handled on
 * the side. The destination never sends a payload.
 */
export class ControlChannel {
  readonly stream: FrameStream;
  readonly #clock: Clock;
  readonly #onFailure: (error: GodwitError) => void;
  #failure: GodwitError | undefined;
  #waiter: { readonly type: FrameName; readonly resolve: (frame: Frame) => void; readonly reject: (error: unknown) => void } | undefined;
  #pending: Frame | undefined;
  #ping: { readonly id: number; readonly resolve: (ms: number) => void; readonly sentAt: number } | undefined;
  #pings = 0;
  #ended = false;

  /** `onFailure` is called once, when the peer reports an error or the stream is lost before `finish`. */
  constructor(stream: FrameStream, clock: Clock, onFailure: (error: GodwitError) => void) {
    this.stream = stream;
    this.#clock = clock;
    this.#onFailure = onFailure;
    void this.#readAll();
  }

  /** The next answer, which must be of this type. One caller at a time. Rejects when the stream fails. */
  expect<T extends FrameName>(type: T): Promise<Extract<Frame, { type: T }>> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined) {
        reject(this.#failure);
        return;
      }
      if (this.#waiter !== undefined) {
        reject(new GodwitError('GODWIT_INVALID_STATE', `already waiting for "${this.#waiter.type}"`));
        return;
      }
      this.#waiter = { type, resolve: (frame) => resolve(frame as Extract<Frame, { type: T }>), reject };
      const pending = this.#pending;
      if (pending !== undefined) {
        this.#pending = undefined;
        this.#deliver(pending);
      }
    });
  }

  /** Measures the round trip: milliseconds until the destination's engine has answered. */
  ping(): Promise<number> {
    const id = ++this.#pings;
    return new Promise((resolve, reject) => {
      this.#ping = { id, resolve, sentAt: this.#clock.now() };
      this.stream.write({ type: 'ping', id }).catch(reject);
    });
  }

  /** From now on the end of the stream is no failure. */
  finish(): void {
    this.#ended = true;
  }

  async #readAll(): Promise<void> {
    try {
      for (;;) {
        const received = await this.stream.read();
        if (received === null) throw new GodwitError('GODWIT_LINK_LOST', 'the destination closed the connection');
        const { frame } = received;
        if (received.payloadBytes > 0) {
          throw new GodwitError('GODWIT_PROTOCOL', `the destination sent a "${frame.type}" frame, which only a source sends`);
        }
        if (frame.type === 'error') throw remoteError(frame.code, frame.message, 'destination');
        if (frame.type === 'ping') await this.stream.write({ type: 'pong', id: frame.id });
        else if (frame.type === 'pong') this.#pong(frame.id);
        else this.#deliver(frame);
      }
    } catch (error) {
      this.#fail(GodwitError.wrap(error, 'GODWIT_LINK_LOST', 'the control stream failed'));
    }
  }

  #pong(id: number): void {
    if (this.#ping?.id !== id) return;
    this.#ping.resolve(this.#clock.now() - this.#ping.sentAt);
    this.#ping = undefined;
  }

  #deliver(frame: Frame): void {
    const waiter = this.#waiter;
    if (waiter === undefined) {
      if (this.#pending !== undefined) {
        throw new GodwitError('GODWIT_PROTOCOL', `the destination sent "${frame.type}" though nothing was asked of it`);
      }
      this.#pending = frame;
      return;
    }
    this.#waiter = undefined;
    if (frame.type === waiter.type) {
      waiter.resolve(frame);
      return;
    }
    const error = new GodwitError('GODWIT_PROTOCOL', `expected "${waiter.type}" from the destination, got "${frame.type}"`);
    waiter.reject(error);
    throw error;
  }

  #fail(error: GodwitError): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    this.#waiter?.reject(error);
    this.#waiter = undefined;
    if (!this.#ended) this.#onFailure(error);
  }
}

/** An error that the peer reported. An unknown code (of a newer peer) becomes `GODWIT_INTERNAL`, named in the message. */
export function remoteError(code: string, message: string, role: 'source' | 'destination'): GodwitError {
  const known = (ERROR_CODES as readonly string[]).includes(code);
  return new GodwitError(
    known ? (code as ErrorCode) : 'GODWIT_INTERNAL',
    known ? `the ${role} failed: ${message}` : `the ${role} failed with ${code}: ${message}`,
    { remote: true },
  );
}
