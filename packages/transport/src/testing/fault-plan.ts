/** Where a fault strikes, counted in one direction of one stream from its start. */
export type FaultPlace =
  /** Before this byte, from 0. */
  | { readonly byte: number }
  /** In this frame, from 0, before its byte `offset` (default 0: before the frame). */
  | { readonly frame: number; readonly offset?: number }
  /** Before a byte that the plan's seed chooses, below this number. */
  | { readonly below: number };

interface FaultBase {
  /** `out`: what our side writes; `in`: what it reads. */
  readonly direction: 'out' | 'in';
  readonly at: FaultPlace;
  /** Only in this stream of the transport, counted from 0 in the order of connecting or accepting. Default: in each. */
  readonly stream?: number;
}

/** One thing that goes wrong, once in each stream. */
export type Fault = FaultBase &
  (
    | {
        /**
         * `cut`: the stream is dropped, both sides lose the link. `stall`: nothing moves any more in this direction, and
         * nobody is told. `half-close`: this direction ends; what follows is swallowed.
         */
        readonly kind: 'cut' | 'stall' | 'half-close';
      }
    | {
        /** Everything waits this long, once. */
        readonly kind: 'delay';
        readonly milliseconds: number;
      }
    | {
        /**
         * What happens to the next `bytes` bytes. `trickle`: they move one at a time (default: all that follow).
         * `duplicate`: they come twice. `corrupt`: each becomes another one. `truncate`: they are missing. Default: 1.
         */
        readonly kind: 'trickle' | 'duplicate' | 'corrupt' | 'truncate';
        readonly bytes?: number;
      }
  );

/** Which faults `faulty` makes, and where. */
export interface FaultPlan {
  readonly faults: readonly Fault[];
  /** Decides `below` and what corrupted bytes become. The same seed does the same. Default: 1. */
  readonly seed?: number;
  /** How a `delay` passes; for a virtual clock. Default: `setTimeout`. */
  readonly sleep?: (milliseconds: number) => Promise<void>;
  /** Told when a fault strikes: the stream's number, and the byte of that direction. */
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
