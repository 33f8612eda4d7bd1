import type {
  DeviceFrame,
  EncodingRecipe,
  ErrorCode,
  PageBoardBuffers,
  PageQueueBuffers,
  RearmRecipe,
  SharedEncodings,
} from '@godwit/core/pages';
import type { GuestMemoryAttachment } from '@godwit/linux/memory';
import type { ChecksumState } from '@godwit/transport/framing';

/** What a thread needs to be that of one page channel. */
export interface ChannelConnection {
  /** A connected stream socket in blocking mode; the main thread closes it when this one has ended. */
  readonly fd: number;
  readonly peer: string;
  /** Bytes that were read from the socket already. */
  readonly unread: Uint8Array;
  readonly checksums: ChecksumState;
  /** One 64-bit number: bytes that this thread has received. */
  readonly received: SharedArrayBuffer;
  /** `ChannelCounters.storage`: what this thread has sent. */
  readonly counters: SharedArrayBuffer;
}

/** From the main thread. Pages never cross: only where they are. */
export type ChannelOrder =
  /** The first order of all. */
  | { readonly type: 'connect'; readonly connection: ChannelConnection }
  | {
      readonly type: 'send';
      readonly memory: GuestMemoryAttachment;
      readonly encodings: SharedEncodings;
      /** Most bytes of payload that the destination takes in a frame. */
      readonly maximumPayload: number;
      readonly queue: PageQueueBuffers;
      /** How it re-arms the pages that it takes. */
      readonly rearm: readonly RearmRecipe[];
    }
  /** Take pages out of the queue, in this pass, until it has no more, and send them. */
  | { readonly type: 'take'; readonly id: number; readonly round: number; readonly pass: number }
  | {
      readonly type: 'batch';
      readonly id: number;
      readonly round: number;
      readonly block: number;
      /** `PageRunList.toPairs` */
      readonly runs: Float64Array;
      readonly holes: Float64Array;
      readonly limit: number;
    }
  /**
   * A piece of device state. Threads share an address space, so that its bytes are named and not copied: whoever orders keeps them alive
   * until the thread has answered, or has ended.
   */
  | {
      readonly type: 'device';
      readonly id: number;
      readonly frame: DeviceFrame;
      readonly address: bigint;
      readonly byteLength: number;
    }
  | { readonly type: 'end round'; readonly id: number; readonly round: number }
  | {
      readonly type: 'receive';
      readonly memory: GuestMemoryAttachment;
      readonly channel: number;
      readonly board: PageBoardBuffers;
      readonly encodings: readonly EncodingRecipe[];
      /** One 32-bit number: pieces of device state that were reported and not taken. Undefined: there are none to come. */
      readonly pieces: SharedArrayBuffer | undefined;
    }
  | { readonly type: 'close' };

/** From the thread. It ends by itself after `failed`, `received` and when it has obeyed `close`. */
export type ChannelReport =
  /** The first report: modules are loaded, orders are heard. */
  | { readonly type: 'ready' }
  /** An order to send is carried out, and nothing of it is borrowed any more. */
  | { readonly type: 'sent'; readonly id: number }
  /** Pages that were taken by an order since the last such report. */
  | { readonly type: 'taken'; readonly id: number; readonly pages: number }
  /** The tracker at this place could not re-arm pages: everything counts as dirty. Comes before the pages are `sent`. */
  | { readonly type: 'rearm failed'; readonly tracker: number; readonly code: ErrorCode; readonly message: string }
  | { readonly type: 'round end'; readonly round: number; readonly pages: number }
  /** A piece of device state, whose buffer is the receiver's. */
  | { readonly type: 'device'; readonly frame: DeviceFrame; readonly bytes: Uint8Array }
  | { readonly type: 'received' }
  | { readonly type: 'failed'; readonly code: ErrorCode; readonly message: string };
