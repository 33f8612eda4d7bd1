import type { OwnershipTable } from './ownership.js';

/**
 * The states of the destination's ownership: whether it may run the guest. docs/switchover.md has both sides; the Spin model has the
 * same names.
 *
 * ```
 *            back              recover
 *          <------           --------> recovering --granted--> recovered
 *                            <-denied-
 * receiving --ready--> ready --go--> asking --granted--> running --released--> settled
 *     |                  |             |                  | |
 *     | fail             | fail        | denied           | +--giveUp--> untold
 *     v                  v             v                  |
 *     +-> abandoned <----+         stranded <---strand----+
 * ```
 */
export type DestinationOwnershipState =
  /** The source owns the guest, whose state is incomplete at the destination. */
  | 'receiving'
  /** Everything is loaded and `ready` is sent. This side waits for `go`, with or without a link, and without a time limit. */
  | 'ready'
  /** `go` was read; the ownership authority is asked whether this side owns the guest. */
  | 'asking'
  /** The embedder said that the source is dead; the ownership authority is asked. */
  | 'recovering'
  /** This side owns the guest and starts it. */
  | 'running'
  /** The source has released its copy. */
  | 'settled'
  /** The guest runs here, but the source could not be told. A later connection is still answered. */
  | 'untold'
  /**
   * `go` was read, but the guest could not be resumed, or the authority says that this side does not own it. The guest's memory is kept for
   * the embedder.
   */
  | 'stranded'
  /** The migration ended before `go`; the guest will never run here. */
  | 'abandoned'
  /** The embedder said that the source is dead. The guest runs here. */
  | 'recovered';

export type DestinationOwnershipEvent =
  /** The `ready` frame is written in this tick. */
  | 'ready'
  /** `go` was read. */
  | 'go'
  /** The source has given up the attempt: by `back`, or by a hello in stage `running` with a higher attempt. */
  | 'back'
  /** The authority says that this side owns the guest. */
  | 'granted'
  /** The authority says that this side does not own the guest. */
  | 'denied'
  /**
   * The source's `error` or the embedder's cancel; in `receiving` also any failure, and a source that has not reconnected in time. In
   * `ready` a time limit or a lost link never leads to `fail`, since `go` may be in flight.
   */
  | 'fail'
  /** `released` was read. */
  | 'released'
  /** `settleTimeoutMs` passed without a link over which the source could be told. */
  | 'giveUp'
  /** The VM's `resume` failed after `go`. */
  | 'strand'
  /** The embedder says that the source is dead for certain. */
  | 'recover';

export const DESTINATION_OWNERSHIP: OwnershipTable<DestinationOwnershipState, DestinationOwnershipEvent> = {
  role: 'destination',
  initial: 'receiving',
  states: {
    receiving: { final: false, mayRunGuest: false },
    ready: { final: false, mayRunGuest: false },
    asking: { final: false, mayRunGuest: false },
    recovering: { final: false, mayRunGuest: false },
    running: { final: false, mayRunGuest: true },
    settled: { final: true, mayRunGuest: true },
    untold: { final: true, mayRunGuest: true },
    stranded: { final: true, mayRunGuest: false },
    abandoned: { final: true, mayRunGuest: false },
    recovered: { final: true, mayRunGuest: true },
  },
  transitions: {
    receiving: { ready: 'ready', fail: 'abandoned' },
    ready: { back: 'receiving', go: 'asking', fail: 'abandoned', recover: 'recovering' },
    asking: { granted: 'running', denied: 'stranded' },
    recovering: { granted: 'recovered', denied: 'ready' },
    running: { released: 'settled', giveUp: 'untold', strand: 'stranded' },
    settled: {},
    untold: {},
    stranded: {},
    abandoned: {},
    recovered: {},
  },
};
