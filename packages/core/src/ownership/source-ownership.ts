import type { OwnershipTable } from './ownership.js';

/**
 * The states of the source's ownership: whether it may run the guest. docs/switchover.md has both sides; the Spin model has the same
 * names.
 *
 * ```
 *            back                 refused
 *          <------              <---------
 * running --pause--> paused --transfer--> transferring --go--> handedOver --running--> released
 *    |                  |                    |      ^           |    |   ^
 *    | fail             | fail               |      | transfer  |    |   | settle
 *    v                  v                    |      |           |    v   |
 *    +-----> kept <-----+                    +------+-- unknown <--------+   (giveUp)
 *                                                          |    |
 *                                                          v    v
 *                                                         recovered          (recover)
 * ```
 */
export type SourceOwnershipState =
  /**
   * Pre-copy: the guest runs here, or is paused by its user. A background snapshot ends in this state, since it hands nothing over.
   */
  | 'running'
  /** The guest is paused for the switchover; `go` is not sent. */
  | 'paused'
  /** The authority was asked for the transfer to the destination. Only its definite refusal leads back. */
  | 'transferring'
  /** `go` is sent. The guest is never resumed by the engine itself, whatever happens to the link. */
  | 'handedOver'
  /** The destination has answered that it runs the guest. */
  | 'released'
  /** The migration failed or was cancelled before `go`. The guest runs on here. */
  | 'kept'
  /**
   * The source has given up asking whether the destination runs the guest. The guest stays paused at the source until the embedder
   * decides.
   */
  | 'unknown'
  /** The embedder said that the destination is dead. The guest runs here. */
  | 'recovered';

export type SourceOwnershipEvent =
  /** The guest is about to be paused. */
  | 'pause'
  /** Failure or cancel before the transfer. */
  | 'fail'
  /** The stop-and-copy is given up, and pre-copy goes on. Applied in the tick of the decision, after which `transfer` is illegal. */
  | 'back'
  /** The ownership authority is asked for the transfer: the point of no return. */
  | 'transfer'
  /** The authority has refused the transfer, or has confirmed that it is withdrawn. */
  | 'refused'
  /** The `go` frame is written in this tick. */
  | 'go'
  /** `running`, or `resumed` with the state `running`, was read. */
  | 'running'
  /** `settleTimeoutMs` passed, or the destination answered that it does not run the guest and will not. */
  | 'giveUp'
  /** The embedder asks the engine to try again to reach the destination. */
  | 'settle'
  /** The embedder says that the destination is dead for certain. */
  | 'recover';

export const SOURCE_OWNERSHIP: OwnershipTable<SourceOwnershipState, SourceOwnershipEvent> = {
  role: 'source',
  initial: 'running',
  states: {
    running: { final: false, mayRunGuest: true },
    paused: { final: false, mayRunGuest: false },
    transferring: { final: false, mayRunGuest: false },
    handedOver: { final: false, mayRunGuest: false },
    released: { final: true, mayRunGuest: false },
    kept: { final: true, mayRunGuest: true },
    unknown: { final: false, mayRunGuest: false },
    recovered: { final: true, mayRunGuest: true },
  },
  transitions: {
    running: { pause: 'paused', fail: 'kept' },
    paused: { back: 'running', transfer: 'transferring', fail: 'kept' },
    transferring: { refused: 'paused', go: 'handedOver', giveUp: 'unknown' },
    handedOver: { running: 'released', giveUp: 'unknown', recover: 'recovered' },
    released: {},
    kept: {},
    unknown: { settle: 'handedOver', transfer: 'transferring', recover: 'recovered' },
    recovered: {},
  },
};
