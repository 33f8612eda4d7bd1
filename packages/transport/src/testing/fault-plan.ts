/** The place at which a fault strikes, counted in one direction of one stream from its start. */
export type FaultPlace =
  /** Before this byte, from 0. */
  | { readonly byte: number }
  /** In this frame, from 0, before its byte `offset` (default 0: before the frame). */
  | { readonly frame: number; readonly offset?: number }
  /** Before a byte that the plan's seed chooses, below this number. */
  | { readonly below: number };

interface FaultBase {
  /** `out`: the bytes that this side writes; `in`: those that it reads. */
  readonly direction: 'out' | 'in';
  readonly at: FaultPlace;
  /**
   * The only stream of the transport in which the fault strikes, counted from 0 in the order of connecting or accepting.
   * Default: in each.
   */
  readonly stream?: number;
}

/** One fault, which strikes once in each stream. */
export type Fault = FaultBase &
  (
    | {
        /**
         * `cut`: the stream is dropped, both sides lose the link. `stall`: nothing moves any more in this direction,
         * without an error. `half-close`: this direction ends, and later bytes are dropped.
         */
        readonly kind: 'cut' | 'stall' | 'half-close';
      }
    | {
        /** All bytes of the direction wait this long, once. */
        readonly kind: 'delay';
        readonly milliseconds: number;
      }
    | {
        /**
         * The fault of the next `bytes` bytes. `trickle`: they move one at a time (default: all that follow).
         * `duplicate`: they come twice. `corrupt`: each becomes another one. `truncate`: they are missing. Default: 1.
         */
        readonly kind: 'trickle' | 'duplicate' | 'corrupt' | 'truncate';
        readonly bytes?: number;
      }
  );

/** The faults that `faulty` makes, and their places. */
export interface FaultPlan {
  readonly faults: readonly Fault[];
  /** Decides `below` and what corrupted bytes become. The same seed gives the same faults. Default: 1. */
  readonly seed?: number;
  /** The function that waits for a `delay`, for a virtual clock. Default: `setTimeout`. */
  readonly sleep?: (milliseconds: number) => Promise<void>;
  /** Called when a fault strikes, with the stream's number and the byte of that direction. */
  readonly onFault?: (fault: Fault, stream: number, byte: number) => void;
}

/** Numbers from 0 to 1, the same for the same seed (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
