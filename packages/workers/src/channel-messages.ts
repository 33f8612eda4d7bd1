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
import type { ServedMemoryParts } from './missing/missing-messages.js';

/** The parts that a thread needs to carry one page channel. */
export interface ChannelConnection {
  /** A connected stream socket in blocking mode; the main thread closes it once this thread has ended. */
  readonly fd: number;
  readonly peer: string;
  /** Bytes that the main thread has already read from the socket. */
  readonly unread: Uint8Array;
  readonly checksums: ChecksumState;
  /** One 64-bit number: bytes that this thread has received. */
  readonly received: SharedArrayBuffer;
  /** `ChannelCounters.storage`: the counters of what this thread has sent. */
  readonly counters: SharedArrayBuffer;
}

/** Orders from the main thread. Pages are named by their numbers and never copied between threads. */
export type ChannelOrder =
  /** Be ready to answer requests for pages: compile that code, until another order comes. */
  | { readonly type: 'warm up' }
  /** The first order of a channel; it comes once. */
  | { readonly type: 'connect'; readonly connection: ChannelConnection }
  | {
      readonly type: 'send';
      readonly memory: GuestMemoryAttachment;
      readonly encodings: SharedEncodings;
      /** Most bytes of payload that the destination takes in a frame. */
      readonly maximumPayload: number;
      readonly queue: PageQueueBuffers;
      /** How the thread re-arms the pages that it takes. */
      readonly rearm: readonly RearmRecipe[];
    }
  /** Takes pages out of the queue, in this pass, until it is empty, and sends them. */
  | {
      readonly type: 'take';
      readonly id: number;
      readonly round: number;
      readonly pass: number;
      readonly whole: boolean;
    }
  | {
      readonly type: 'batch';
      readonly id: number;
      readonly round: number;
      readonly block: number;
      /** `PageRunList.toPairs` */
      readonly runs: Float64Array;
      readonly holes: Float64Array;
      readonly limit: number;
      readonly whole: boolean;
    }
  /**
   * Sends a piece of device state. Threads share an address space, so that the order has the address of the bytes instead of a copy: the
   * main thread keeps the bytes alive until this thread has answered or ended.
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
      /**
       * One 32-bit number: pieces of device state that were reported and not yet taken by the main thread. Undefined: no device state
       * may come.
       */
      readonly pieces: SharedArrayBuffer | undefined;
    }
  /** Answers the destination's requests for pages until the stream ends. */
  | {
      readonly type: 'answer';
      readonly memory: GuestMemoryAttachment;
      readonly queue: PageQueueBuffers;
      /** One 32-bit number, `AnsweringParts.open`. */
      readonly open: SharedArrayBuffer;
    }
  /**
   * How pages are put from now on. The order comes while the thread reads frames; the thread looks for it once `PageBoard.missing` is
   * set.
   */
  | { readonly type: 'missing'; readonly parts: ServedMemoryParts }
  | { readonly type: 'close' };

/** Reports of the thread. The thread ends by itself after `failed`, after `received`, and when it has carried out `close`. */
export type ChannelReport =
  /** The first report: the modules are loaded, and the thread receives orders. */
  | { readonly type: 'ready' }
  /** An order to send is carried out; the thread no longer reads the memory that the order named. */
  | { readonly type: 'sent'; readonly id: number }
  /** Number of pages that an order has taken since the last such report. */
  | { readonly type: 'taken'; readonly id: number; readonly pages: number }
  /** The tracker at this index could not re-arm pages: every page counts as dirty. The report comes before the pages are `sent`. */
  | { readonly type: 'rearm failed'; readonly tracker: number; readonly code: ErrorCode; readonly message: string }
  | { readonly type: 'round end'; readonly round: number; readonly pages: number }
  /** A piece of device state; its buffer is transferred to the main thread. */
  | { readonly type: 'device'; readonly frame: DeviceFrame; readonly bytes: Uint8Array }
  | { readonly type: 'received' }
  | { readonly type: 'failed'; readonly code: ErrorCode; readonly message: string };
