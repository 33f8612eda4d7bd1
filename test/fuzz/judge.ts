import { type Frame, type FrameName, isLegal, PAGE_CHANNEL_FRAMES, type Role } from '@godwit/core';
import { urgentStreamOf } from '@godwit/core/pages';
import { LinkPhases } from '@godwit/transport';

/**
 * Reads the frames of a connection at its hostile end and judges them by the protocol's table: which frames the engine
 * should have refused, and which ones the engine should not have sent.
 */
export class Judge {
  /** Frames of the hostile end, up to `go`, that were at no time legal while the engine handled them. */
  readonly illegal: string[] = [];
  /** Illegal frames of the engine, sent while its peer had done nothing illegal. */
  readonly lapses: string[] = [];
  /** Frames that either end has sent. */
  readonly seen: Frame[] = [];
  readonly #phases = new LinkPhases();
  readonly #hostile: Role;
  #pageChannels = 0;
  /**
   * A frame that was illegal when the engine read it. An engine that reads ahead may handle the frame later, when it is
   * legal.
   */
  #early: { readonly frame: Frame; readonly phase: string | undefined } | undefined;

  constructor(hostile: Role) {
    this.#hostile = hostile;
  }

  get phases(): LinkPhases {
    return this.#phases;
  }

  /** Whether either end has sent such a frame. */
  saw(type: FrameName): boolean {
    return this.seen.some((frame) => frame.type === type);
  }

  /** The last frame of a type. */
  last<T extends FrameName>(type: T): Extract<Frame, { type: T }> | undefined {
    return this.seen.findLast((frame): frame is Extract<Frame, { type: T }> => frame.type === type);
  }

  /** The engine reads a frame of the hostile end. Frames on page channels race with the control stream. */
  handed(frame: Frame, stream = 0): void {
    this.seen.push(frame);
    if (frame.type === 'hello') this.#pageChannels = frame.pageChannels - (urgentStreamOf(frame) === undefined ? 0 : 1);
    if (stream > 0) return;
    if (this.#allows(frame)) {
      this.#phases.take(frame, this.#hostile);
      return;
    }
    // After `go`, nothing that the peer does can undo the hand-over.
    if (this.#past) return;
    const phase = this.#hostile === 'source' ? this.#phases.destination : this.#phases.source;
    this.#early = { frame, phase };
  }

  /** The engine reads the next frame, or has ended: it has handled the earlier frames. */
  settled(): void {
    if (this.#early === undefined) return;
    const { frame, phase } = this.#early;
    this.#early = undefined;
    if (this.#allows(frame)) this.#phases.take(frame, this.#hostile);
    else this.illegal.push(`"${frame.type}" in phase "${phase}"`);
  }

  /** The engine has written a frame. */
  written(frame: Frame, stream = 0): void {
    this.seen.push(frame);
    if (frame.type === 'hello') this.#pageChannels = frame.pageChannels - (urgentStreamOf(frame) === undefined ? 0 : 1);
    const objection = this.#phases.take(frame, this.#hostile === 'source' ? 'destination' : 'source', stream);
    if (objection !== undefined && this.illegal.length === 0 && this.#early === undefined) this.lapses.push(objection);
  }

  get #past(): boolean {
    const { source, destination } = this.#phases;
    return (
      destination === 'taking-over' ||
      destination === 'post-copy' ||
      source === 'handing-over' ||
      source === 'post-copy' ||
      source === 'release'
    );
  }

  #allows({ type }: Frame): boolean {
    const { source, destination } = this.#phases;
    if (this.#hostile === 'destination') return source !== undefined && isLegal('source', source, type);
    const onControl = this.#pageChannels === 0 || !PAGE_CHANNEL_FRAMES.includes(type);
    return destination !== undefined && onControl && isLegal('destination', destination, type);
  }
}
