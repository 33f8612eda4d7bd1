import { GodwitError } from '../errors.js';
import { remoteError } from '../link/control-channel.js';
import type { FrameStream, ReceivedFrame } from '../link/frame-stream.js';

/**
 * The destination's view of the control stream: the source's frames in order, with `error` and the stream's end turned
 * into failures, and with `ping` answered and `pong` left out.
 *
 * While the destination works on something that the source waits for (building the VM, loading devices, comparing RAM),
 * it goes on listening: a source that gives up, or dies, is noticed at once and not after the work.
 */
export class SourceFrames {
  readonly stream: FrameStream;
  #ahead: Promise<ReceivedFrame | null> | undefined;

  constructor(stream: FrameStream) {
    this.stream = stream;
  }

  /** The next frame that is no `ping` and no `pong`. Its payload, if any, is for the caller to read. */
  async next(): Promise<ReceivedFrame> {
    for (;;) {
      const received = check(await this.#read());
      if (!(await this.#aside(received))) return received;
    }
  }

  /**
   * Settles as `work` does, unless the source fails meanwhile or ends the stream. Where it waits for an `answer`, it has
   * nothing else to say but `ping`; a frame that comes all the same is a violation.
   */
  async during<T>(work: Promise<T>, answer?: string): Promise<T> {
    let done = false;
    const finish = () => {
      done = true;
    };
    work.then(finish, finish);
    const interrupted = (async (): Promise<never> => {
      while (!done) {
        this.#ahead ??= this.stream.read();
        const received = check(await this.#ahead);
        const { type } = received.frame;
        const aside = type === 'ping' || type === 'pong';
        // The work is done, or the source may speak: what came is for `next`.
        if (done || (!aside && answer === undefined)) break;
        this.#ahead = undefined;
        if (!(await this.#aside(received))) {
          throw new GodwitError('GODWIT_PROTOCOL', `the source sent "${type}" before it got "${answer}"`);
        }
      }
      return new Promise<never>(() => {});
    })();
    return Promise.race([work, interrupted]);
  }

  /** Answers a `ping`, forgets a `pong` (bytes came: that is all it says); false for every other frame. */
  async #aside({ frame }: ReceivedFrame): Promise<boolean> {
    if (frame.type === 'ping') await this.stream.write({ type: 'pong', id: frame.id });
    return frame.type === 'ping' || frame.type === 'pong';
  }

  #read(): Promise<ReceivedFrame | null> {
    const ahead = this.#ahead ?? this.stream.read();
    this.#ahead = undefined;
    return ahead;
  }
}

function check(received: ReceivedFrame | null): ReceivedFrame {
  if (received === null) {
    throw new GodwitError('GODWIT_LINK_LOST', 'the source closed the connection before the end of the migration');
  }
  if (received.frame.type === 'error') throw remoteError(received.frame.code, received.frame.message, 'source');
  return received;
}
