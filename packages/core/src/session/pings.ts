import type { Clock } from '../clock.js';
import type { GodwitError } from '../errors.js';
import type { FrameStream } from '../link/frame-stream.js';

interface Waiting {
  readonly id: number;
  readonly sentAt: number;
  readonly resolve: (ms: number) => void;
  readonly reject: (error: unknown) => void;
}

/** The pings of one connection, in both directions. */
export class Pings {
  readonly #stream: FrameStream;
  readonly #clock: Clock;
  #waiting: Waiting[] = [];
  #failure: GodwitError | undefined;
  #count = 0;
  /** A pong is being written. */
  #answering = false;
  /** The latest ping that came meanwhile. */
  #unanswered: number | undefined;

  constructor(stream: FrameStream, clock: Clock) {
    this.#stream = stream;
    this.#clock = clock;
  }

  /** Resolves with the milliseconds until the peer has answered. */
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

  /** A pong has come. Those that nobody waits for (a keepalive's) say no more than that bytes come. */
  answered(id: number): void {
    const at = this.#waiting.findIndex((waiting) => waiting.id === id);
    if (at === -1) return;
    const [waiting] = this.#waiting.splice(at, 1);
    waiting?.resolve(this.#clock.now() - waiting.sentAt);
  }

  /**
   * A ping has come. The answer is not awaited: behind pages that the peer does not take any more, its reason would never be
   * read. Of the pings that come while an answer waits to be written, the latest is answered: a flood of them takes no memory.
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

  /** Nothing more comes. */
  fail(error: GodwitError): void {
    this.#failure = error;
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }
}
