import { GodwitError } from '../errors.js';
import { remoteError } from '../link/control-channel.js';
import type { FrameStream, ReceivedFrame } from '../link/frame-stream.js';

/**
 * The destination's view of the control stream: the source's frames in order, with `error` and the stream's end turned
 * into failures, and with `ping` answered.
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

  /** The next frame that is no `ping`. Its payload, if any, is for the caller to read. */
  async next(): Promise<ReceivedFrame> {
    for (;;) {
      const received = check(await this.#read());
      if (received.frame.type !== 'ping') return received;
      await this.stream.write({ type: 'pong', id: received.frame.id });
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
        const { frame } = received;
        // The work is done, or the source may speak: what came is for `next`.
        if (done || (frame.type !== 'ping' && answer === undefined)) break;
        this.#ahead = undefined;
        if (frame.type !== 'ping') {
          throw new GodwitError('GODWIT_PROTOCOL', `the source sent "${frame.type}" before it got "${answer}"`);
        }
        await this.stream.write({ type: 'pong', id: frame.id });
      }
      return new Promise<never>(() => {});
    })();
    return Promise.race([work, interrupted]);
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
