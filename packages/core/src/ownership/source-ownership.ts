import type { OwnershipTable } from './ownership.js';

/**
 * Whether the source may run the guest. Written down, with the destination's side, in docs/switchover.md; the model
 * that Spin checks has the same names.
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
  /** The guest runs here, or is as the embedder left it. Pre-copy; nothing is given away. */
  | 'running'
  /** The guest is paused for the switchover; `go` is not sent. */
  | 'paused'
  /** The authority was asked to give the guest to the destination. Only its definite no leads back. */
  | 'transferring'
  /** `go` is sent. The guest is never resumed by itself, whether the link lives, is being made anew or is lost. */
  | 'handedOver'
  /** The destination said that it runs the guest. */
  | 'released'
  /** Over before `go`, by failure or cancel. The guest runs on here. */
  | 'kept'
  /** Gave up asking whether the destination runs the guest. Paused here until the embedder decides. */
  | 'unknown'
  /** The embedder said that the destination is dead. The guest runs here. */
  | 'recovered';

export type SourceOwnershipEvent =
  /** The guest is about to be paused. */
  | 'pause'
  /** Failure or cancel before the transfer. */
  | 'fail'
  /** Stop-and-copy is given up, and pre-copy goes on. In the tick in which it is decided: then `go` cannot be. */
  | 'back'
  /** The ownership authority is asked for the transfer: the point of no return. */
  | 'transfer'
  /** The authority has said no, or has confirmed that the transfer is withdrawn. */
  | 'refused'
  /** In the tick in which the `go` frame is written. */
  | 'go'
  /** `running`, or `resumed` with the state `running`, was read. */
  | 'running'
  /** `settleTimeoutMs` passed, or the destination answered that it does not run the guest and will not. */
  | 'giveUp'
  /** The embedder asks to try again to reach the destination. */
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
