import { type FrameStream, GodwitError, type ReceivedFrame } from '@godwit/core';
import { PeekedFrameStream } from './peeked-frame-stream.js';

/** The control stream of an incoming link, whose hello has been read: it reports when its owner closes or aborts it. */
export class ControlStream extends PeekedFrameStream {
  readonly #onEnd: (reason: GodwitError) => void;

  /** `onEnd` is called at every `close` and `abort`. */
  constructor(stream: FrameStream, hello: ReceivedFrame, onEnd: (reason: GodwitError) => void) {
    super(stream, Promise.resolve(hello));
    this.#onEnd = onEnd;
  }

  override close(): Promise<void> {
    this.#onEnd(new GodwitError('GODWIT_LINK_LOST', 'the control stream of these page channels was closed'));
    return super.close();
  }

  override abort(reason: GodwitError): void {
    this.#onEnd(reason);
    super.abort(reason);
  }
}
