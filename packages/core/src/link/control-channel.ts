import type { Clock } from '../clock.js';
import { ERROR_CODES, type ErrorCode, GodwitError } from '../errors.js';
import type {
  Frame,
  FrameName,
  HelloFrame,
  ReceivedPagesFrame,
  ResumedFrame,
  WelcomeFrame,
} from '../protocol/frame.js';
import type { FrameStream } from './frame-stream.js';

type FrameOf<T extends FrameName> = Extract<Frame, { type: T }>;

interface Waiter {
  readonly types: readonly FrameName[];
  readonly resolve: (frame: Frame) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * The source's view of the control stream: what the destination answers, with `error`, `ping` and `pong` handled on the
 * side. The destination speaks only when it was asked: whoever wants an answer waits for it before the question is
 * written, and a frame that nobody waits for is a violation. The destination never sends a payload.
 */
export class ControlChannel {
  readonly stream: FrameStream;
  readonly #clock: Clock;
  readonly #onFailure: (error: GodwitError) => void;
  /** Resolves with the reason when nothing more is read from the stream. */
  readonly ended: Promise<GodwitError>;
  #failure: GodwitError | undefined;
  #waiter: Waiter | undefined;
  /** Takes the `received` frames that come before `resumed`. */
  #onReceived: ((frame: ReceivedPagesFrame) => void) | undefined;
  #ping:
    | {
        readonly id: number;
        readonly sentAt: number;
        readonly resolve: (ms: number) => void;
        readonly reject: (error: unknown) => void;
      }
    | undefined;
  #pings = 0;
  /** A pong is being written. */
  #ponging = false;
  /** The latest ping that came meanwhile. */
  #unanswered: number | undefined;
  #finished = false;
  #closed = false;

  /** `onFailure` is called once, when the peer reports an error or the stream is lost before `finish`. */
  constructor(stream: FrameStream, clock: Clock, onFailure: (error: GodwitError) => void) {
    this.stream = stream;
    this.#clock = clock;
    this.#onFailure = onFailure;
    this.ended = this.#readAll();
  }

  /** Why nothing more comes; `undefined` while the stream is well. */
  get failure(): GodwitError | undefined {
    return this.#failure;
  }

  /**
   * Whether the destination has ended its direction, or said why it is over: it has then read what was written to it. A link
   * that was lost says nothing of that.
   */
  get heardOut(): boolean {
    return this.#closed || this.#failure?.remote === true;
  }

  /** The next answer, which must be of one of these types. One caller at a time. Rejects when the stream fails. */
  expect<T extends FrameName>(...types: readonly T[]): Promise<FrameOf<T>> {
    const answer = new Promise<FrameOf<T>>((resolve, reject) => {
      if (this.#failure !== undefined) {
        reject(this.#failure);
      } else if (this.#waiter !== undefined) {
        reject(new GodwitError('GODWIT_INVALID_STATE', `already waiting for ${quoted(this.#waiter.types)}`));
      } else {
        this.#waiter = { types, resolve: (frame) => resolve(frame as FrameOf<T>), reject };
      }
    });
    // It may fail long before somebody awaits it.
    answer.catch(() => {});
    return answer;
  }

  /** Says who we are. `onReceived` takes what comes before a `resumed`; it may throw. */
  async greet(
    hello: HelloFrame,
    onReceived: (frame: ReceivedPagesFrame) => void,
  ): Promise<WelcomeFrame | ResumedFrame> {
    this.#onReceived = onReceived;
    try {
      return await this.ask(hello, 'welcome', 'resumed');
    } finally {
      this.#onReceived = undefined;
    }
  }

  /** Writes `frame` and resolves with the answer to it. */
  async ask<T extends FrameName>(frame: Frame, ...types: readonly T[]): Promise<FrameOf<T>> {
    const answer = this.expect(...types);
    await Promise.all([answer, this.stream.write(frame)]);
    return answer;
  }

  /** Measures the round trip: milliseconds until the destination's engine has answered. */
  ping(): Promise<number> {
    const id = ++this.#pings;
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined) {
        reject(this.#failure);
        return;
      }
      this.#ping = { id, sentAt: this.#clock.now(), resolve, reject };
      this.stream.write({ type: 'ping', id }).catch(reject);
    });
  }

  /** From now on the end of the stream is no failure. */
  finish(): void {
    this.#finished = true;
  }

  async #readAll(): Promise<GodwitError> {
    try {
      for (;;) {
        const received = await this.stream.read();
        this.#closed = received === null;
        if (received === null) throw new GodwitError('GODWIT_LINK_LOST', 'the destination closed the connection');
        const { frame } = received;
        if (received.payloadBytes > 0) {
          throw new GodwitError(
            'GODWIT_PROTOCOL',
            `the destination sent a "${frame.type}" frame, which only a source sends`,
          );
        }
        if (frame.type === 'error') throw remoteError(frame.code, frame.message, 'destination');
        if (frame.type === 'ping') this.#answerPing(frame.id);
        else if (frame.type === 'pong') this.#pong(frame.id);
        else this.#deliver(frame);
      }
    } catch (error) {
      return this.#fail(GodwitError.wrap(error, 'GODWIT_LINK_LOST', 'the control stream failed'));
    }
  }

  /**
   * Not awaited: behind pages that the destination does not take any more, its reason would never be read. Of the pings
   * that come while an answer waits to be written, the latest is answered: a flood of them takes no memory.
   */
  #answerPing(id: number): void {
    if (this.#ponging) {
      this.#unanswered = id;
      return;
    }
    this.#ponging = true;
    this.stream.write({ type: 'pong', id }).then(
      () => {
        this.#ponging = false;
        const next = this.#unanswered;
        this.#unanswered = undefined;
        if (next !== undefined) this.#answerPing(next);
      },
      () => {},
    );
  }

  #pong(id: number): void {
    if (this.#ping?.id !== id) return;
    this.#ping.resolve(this.#clock.now() - this.#ping.sentAt);
    this.#ping = undefined;
  }

  #deliver(frame: Frame): void {
    if (frame.type === 'received' && this.#onReceived !== undefined) {
      this.#onReceived(frame);
      return;
    }
    const waiter = this.#waiter;
    this.#waiter = undefined;
    if (waiter === undefined) {
      throw new GodwitError('GODWIT_PROTOCOL', `the destination sent "${frame.type}" though nothing was asked of it`);
    }
    if (!waiter.types.includes(frame.type)) {
      const error = new GodwitError(
        'GODWIT_PROTOCOL',
        `expected ${quoted(waiter.types)} from the destination, got "${frame.type}"`,
      );
      waiter.reject(error);
      throw error;
    }
    waiter.resolve(frame);
  }

  #fail(error: GodwitError): GodwitError {
    this.#failure = error;
    this.#waiter?.reject(error);
    this.#waiter = undefined;
    this.#ping?.reject(error);
    this.#ping = undefined;
    if (!this.#finished) this.#onFailure(error);
    return error;
  }
}

function quoted(types: readonly FrameName[]): string {
  return types.map((type) => `"${type}"`).join(' or ');
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
