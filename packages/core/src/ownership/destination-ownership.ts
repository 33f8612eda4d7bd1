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
  /** The source owns the guest; its state is incomplete here. */
  | 'receiving'
  /** All is loaded and `ready` is sent. Waits for `go`, with or without a link, and without a time limit. */
  | 'ready'
  /** `go` was read; the ownership authority is asked whether the guest is this side's. */
  | 'asking'
  /** The embedder said that the source is dead; the ownership authority is asked. */
  | 'recovering'
  /** This side owns the guest and starts it. */
  | 'running'
  /** The source has released its copy. */
  | 'settled'
  /** The guest runs here, but the source could not be told. A later connection is still answered. */
  | 'untold'
  /** `go` was read, but the guest could not be resumed, or the authority says that it is not this side's. Its memory is kept for the embedder. */
  | 'stranded'
  /** The migration ended before `go`; the guest will never run here. */
  | 'abandoned'
  /** The embedder said that the source is dead. The guest runs here. */
  | 'recovered';

export type DestinationOwnershipEvent =
  /** In the tick in which the `ready` frame is written. */
  | 'ready'
  /** `go` was read. */
  | 'go'
  /** The source has given the attempt up: by `back`, or by a hello in stage running with a higher attempt. */
  | 'back'
  /** The authority says that the guest is this side's. */
  | 'granted'
  /** The authority says that the guest is not this side's. */
  | 'denied'
  /**
   * The source's `error` or the embedder's cancel; while `receiving` also any failure, and a source that has not reconnected in time.
   * From `ready` never after a time limit or a lost link, since `go` may be in flight.
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
