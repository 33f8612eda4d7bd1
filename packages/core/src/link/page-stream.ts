import type { PageBoardBuffers } from '../destination/page-board.js';
import type { ChannelRoundEnd } from '../destination/read-page-channel.js';
import type { EncodingRecipe } from '../encoding/page-encoding.js';
import type { SharedEncodings } from '../encoding/sent-encodings.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { DeviceFrame } from '../protocol/frame.js';
import type { PageChannel } from '../source/page-channel.js';
import type { FrameStream } from './frame-stream.js';

/** The destination's end of a page channel that is read on another thread. */
export interface RemoteReading {
  readonly channel: number;
  readonly memory: GuestMemory;
  /** The board, which the other thread joins (`PageBoard.join`); its `PageWriter` makes the same checks as one on this thread. */
  readonly board: PageBoardBuffers;
  /** The encodings that both sides use, for the other thread's `PageDecoder`. */
  readonly encodings: readonly EncodingRecipe[];
  readonly onRoundEnd: ChannelRoundEnd;
  /**
   * Called with each piece of device state, which is the engine's from then on. It may throw: the channel then fails with that error.
   * Undefined: no device state may come on page channels.
   */
  readonly onDevice?: (frame: DeviceFrame, bytes: Uint8Array) => void;
}

/**
 * A page channel's stream. A stream that lives on another thread, which maps the same memory, has `sendPages` and `receivePages`: pages
 * are then sent and received on that thread. The engine neither writes nor reads such a stream, but closes or aborts it as any other.
 */
export interface PageStream extends FrameStream {
  /**
   * Source: makes the channel that reads `memory` and writes this stream on the other thread, in frames with at most `maximumPayload`
   * bytes of payload. Throws when the other thread cannot map the memory.
   */
  sendPages?(memory: GuestMemory, encodings: SharedEncodings, maximumPayload: number): PageChannel;
  /**
   * Destination: runs `readPageChannel` on the other thread. Once it has settled, that thread does not touch guest memory.
   */
  receivePages?(reading: RemoteReading): Promise<void>;
}
