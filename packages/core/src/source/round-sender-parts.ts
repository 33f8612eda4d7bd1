import type { Clock } from '../clock.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { PageQueue } from '../queue/page-queue.js';
import type { TrackerUnion } from '../tracker/tracker-union.js';
import type { BandwidthLimit } from './bandwidth-limit.js';
import type { PageChannel } from './page-channel.js';

export interface RoundSenderParts {
  readonly memory: GuestMemory;
  readonly tracker: Pick<TrackerUnion, 'rearmPages' | 'rearmRecipes' | 'lost'>;
  /** The pages to send. */
  readonly queue: PageQueue;
  readonly channels: readonly PageChannel[];
  readonly limit: BandwidthLimit;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** Whether the channels choose encodings by the rate of the link or of the bandwidth limit. Default false: there are none, or always. */
  readonly adaptive?: boolean;
  /** Most bytes of payload that the destination takes in one frame. */
  readonly maximumPayload: number;
  /** Resolves when the destination has acknowledged the round with the number of pages that it received. */
  readonly acknowledged: (round: number) => Promise<number>;
  /**
   * Called for progress with the pages of each batch that was handed to a channel; without a bandwidth limit also called with 0 when
   * a batch was written.
   */
  readonly onBatch: (pages: number) => void;
  /**
   * Bytes of device state on the streams of `channels`: over a link without page channels pages and device state share the control
   * stream.
   */
  readonly deviceBytes: () => number;
}

/** How a round is sent. */
export interface RoundMode {
  /** Whether the bandwidth limit applies; it does not while the guest is paused. */
  readonly limited: boolean;
  /** The guest runs at the destination: each page is sent whole (`PageBatch.whole`), and the urgent channel takes pages meanwhile. */
  readonly postcopy?: boolean;
}
