import type { PageBoardBuffers } from '../destination/page-board.js';
import type { ChannelRoundEnd } from '../destination/read-page-channel.js';
import type { EncodingRecipe } from '../encoding/page-encoding.js';
import type { SharedEncodings } from '../encoding/sent-encodings.js';
import type { GodwitError } from '../errors.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { DeviceFrame } from '../protocol/frame.js';
import type { PageQueueBuffers } from '../queue/page-queue.js';
import type { PageChannel } from '../source/page-channel.js';
import type { ThreadRecipe } from '../thread-recipe.js';
import type { RearmRecipe } from '../tracker/tracker-union.js';
import type { FrameStream } from './frame-stream.js';

/** The source's end of a page channel that is written on another thread. */
export interface RemoteSending {
  readonly memory: GuestMemory;
  readonly encodings: SharedEncodings;
  /** Most bytes of payload in a frame. */
  readonly maximumPayload: number;
  /** The queue of owed pages, which the other thread joins (`PageQueue.join`). */
  readonly queue: PageQueueBuffers;
  /**
   * How the other thread re-arms the pages that it takes; `undefined` when only the engine's thread can re-arm: the engine then hands pages
   * to the channel.
   */
  readonly rearm: readonly RearmRecipe[] | undefined;
  /**
   * Called with the tracker's index in the list when a tracker has failed to re-arm pages on the other thread, before the pages count as
   * sent.
   */
  readonly onRearmFailed: (tracker: number, error: GodwitError) => void;
}

/** The destination's end of a page channel that is read on another thread. */
export interface RemoteReading {
  readonly channel: number;
  readonly memory: GuestMemory;
  /** The board, which the other thread joins (`PageBoard.join`); the `PageWriter` there makes the same checks as one on this thread. */
  readonly board: PageBoardBuffers;
  /** The encodings that both sides use, for the other thread's `PageDecoder`. */
  readonly encodings: readonly EncodingRecipe[];
  readonly onRoundEnd: ChannelRoundEnd;
  /**
   * Called with each piece of device state, whose bytes the engine then owns. If the callback throws, the channel fails with that error.
   * Undefined: no device state may come on page channels.
   */
  readonly onDevice?: (frame: DeviceFrame, bytes: Uint8Array) => void;
}

/** The source's end of the urgent channel, on another thread: see `answerRequests`. */
export interface RemoteAnswering {
  readonly memory: GuestMemory;
  readonly queue: PageQueueBuffers;
  /** `AnsweringParts.open`. */
  readonly open: ArrayBufferLike;
}

/**
 * A page channel's stream. A stream that lives on another thread, which maps the same memory, has `sendPages` and `receivePages`: pages are
 * then sent and received on that thread, by the parts in `@godwit/core/pages`, which may change in any version. The engine neither writes
 * nor reads such a stream itself, but closes or aborts it like any other.
 */
export interface PageStream extends FrameStream {
  /**
   * Resolves when the other thread works, or has ended; never rejects. No round begins before that, so that no round's time includes a
   * thread's start.
   */
  readonly ready?: Promise<void>;
  /**
   * Source: makes the channel that reads guest memory and writes this stream on the other thread. Throws when that thread cannot map the
   * memory.
   */
  sendPages?(sending: RemoteSending): PageChannel;
  /** Destination: runs `readPageChannel` on the other thread. Once the promise has settled, that thread does not touch guest memory. */
  receivePages?(reading: RemoteReading): Promise<void>;
  /** Destination: tells the other thread how to put pages once `PageBoard.missing` is set; called before it is set. */
  putMissing?(sink: ThreadRecipe): void;
  /** Source: runs `answerRequests` on the other thread. Settles once that thread no longer touches guest memory. */
  answerRequests?(answering: RemoteAnswering): Promise<void>;
}
