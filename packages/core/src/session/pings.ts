import type { Clock } from '../clock.js';
import type { GodwitError } from '../errors.js';
import type { FrameStream } from '../link/frame-stream.js';

interface Waiting {
  readonly id: number;
  readonly sentAt: number;
  readonly resolve: (ms: number) => void;
  readonly reject: (error: unknown) => void;
}

/** Sends the pings of one connection and answers the peer's. */
export class Pings {
  readonly #stream: FrameStream;
  readonly #clock: Clock;
  #waiting: Waiting[] = [];
  #failure: GodwitError | undefined;
  #count = 0;
  /** True while a pong is being written. */
  #answering = false;
  /** The id of the latest ping that came while a pong was being written. */
  #unanswered: number | undefined;

  constructor(stream: FrameStream, clock: Clock) {
    this.#stream = stream;
    this.#clock = clock;
  }

  /** Sends a ping; resolves with the milliseconds until the peer has answered. Rejects when the stream fails. */
  ping(): Promise<number> {
    const id = ++this.#count;
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined) {
        reject(this.#failure);
        return;
      }
      this.#waiting.push({ id, sentAt: this.#clock.now(), resolve, reject });
      this.#stream.write({ type: 'ping', id }).catch(reject);
    });
  }

  /**
   * Handles a pong. A pong that answers no pending ping (keepalive's) is ignored: its bytes have already shown that the peer is
   * alive.
   */
  answered(id: number): void {
    const at = this.#waiting.findIndex((waiting) => waiting.id === id);
    if (at === -1) return;
    const [waiting] = this.#waiting.splice(at, 1);
    waiting?.resolve(this.#clock.now() - waiting.sentAt);
  }

  /**
   * Handles a ping by sending a pong. The write is not awaited: if the peer takes no more bytes, the wait would last for ever
   * and the peer's closing message would not be read. Of the pings that come while a pong is being written only the latest is
   * answered, so that a flood of them takes no memory.
   */
  answer(id: number): void {
    if (this.#answering) {
      this.#unanswered = id;
      return;
    }
    this.#answering = true;
    this.#stream.write({ type: 'pong', id }).then(
      () => {
        this.#answering = false;
        const next = this.#unanswered;
        this.#unanswered = undefined;
        if (next !== undefined) this.answer(next);
      },
      () => {},
    );
  }

  /** Rejects every pending ping, and each later one, with `error`. */
  fail(error: GodwitError): void {
    this.#failure = error;
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }
}
