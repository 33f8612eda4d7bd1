import type { PageBoardBuffers } from '../destination/page-board.js';
import type { ChannelRoundEnd } from '../destination/read-page-channel.js';
import type { EncodingRecipe } from '../encoding/page-encoding.js';
import type { SharedEncodings } from '../encoding/sent-encodings.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { PageChannel } from '../source/page-channel.js';
import type { FrameStream } from './frame-stream.js';

/** The destination's end of a page channel that is read on another thread. */
export interface RemoteReading {
  readonly channel: number;
  readonly memory: GuestMemory;
  /** Joined by the other thread (`PageBoard.join`), whose writer makes every check that ours would. */
  readonly board: PageBoardBuffers;
  /** What the pages may be encoded with: for the other thread's `PageDecoder`. */
  readonly encodings: readonly EncodingRecipe[];
  readonly onRoundEnd: ChannelRoundEnd;
}

/**
 * A page channel's stream. One that lives on another thread, which maps the same memory, moves the pages there: the engine
 * then neither writes it nor reads it, but closes or aborts it as any other.
 */
export interface PageStream extends FrameStream {
  /**
   * Source: the channel that reads `memory` and writes this stream elsewhere, in frames of at most `maximumPayload` bytes of
   * payload. Throws when it cannot be done with it.
   */
  sendPages?(memory: GuestMemory, encodings: SharedEncodings, maximumPayload: number): PageChannel;
  /**
   * Destination: `readPageChannel`, elsewhere. When it settles, the other thread does not touch guest memory any more.
   */
  receivePages?(reading: RemoteReading): Promise<void>;
}
