import type { MovedRunState } from '../protocol/frame.js';
import type { DowntimeTerms } from '../round-record.js';

/** When what happened while the guest was paused, in milliseconds of the source's clock, in this order. */
export interface PausedTimes {
  readonly start: number;
  readonly paused: number;
  readonly held: number;
  readonly harvested: number;
  readonly sent: number;
  readonly saved: number;
  readonly harvestedAgain: number;
  readonly sentAgain: number;
  readonly ready: number;
  readonly verified: number;
  readonly checked: number;
  /** As the destination says. */
  readonly loadMs: number;
  readonly verifiedPages: number;
  readonly runState: MovedRunState;
  readonly attempt: number;
}

/** What the destination says of itself when it runs the guest, and when that was heard here. */
export interface HandedOver {
  /** How long it took there to start the guest, in milliseconds. */
  readonly resumeMs: number;
  /** From `ready` to the running guest, on the destination's clock. */
  readonly sinceReadyMs: number;
  readonly heardAt: number;
}

/** The downtime that the guest saw, and what it was made of; `verifyMs` and `heldMs` are not in it. */
export interface Downtime {
  readonly downtimeMs: number;
  readonly terms: DowntimeTerms;
  readonly verifyMs: number;
  readonly heldMs: number;
}

/**
 * The guest was down from the call of `pause` here until it ran there. The destination counts from its `ready`, so that a link which
 * was lost with `running` on its way does not count: the guest ran all the time. `roundTripMs` is the link's, to split the way of
 * `ready`.
 */
export function downtimeOf(times: PausedTimes, handed: HandedOver, verify: boolean, roundTripMs: number): Downtime {
  const heldMs = times.held - times.paused;
  const verifyMs = verify ? times.verified - times.ready : 0;
  const heard = handed.heardAt - times.start;
  const ran =
    times.ready - times.start - Math.min(roundTripMs / 2, times.ready - times.sentAgain) + handed.sinceReadyMs;
  // A clock of the destination that makes no sense is not believed.
  const whole = handed.sinceReadyMs > 0 && ran < heard ? ran : heard;
  const downtimeMs = Math.max(0, whole - heldMs - verifyMs);
  const terms = {
    pauseMs: times.paused - times.start,
    harvestMs: times.harvested - times.held + (times.harvestedAgain - times.saved) + (times.checked - times.verified),
    ramMs: times.sent - times.harvested + (times.sentAgain - times.harvestedAgain),
    deviceMs: times.saved - times.sent,
    loadMs: atMost(times.loadMs, times.ready - times.sentAgain),
    resumeMs: atMost(handed.resumeMs, Math.max(0, times.start + whole - times.checked)),
  };
  const known = terms.pauseMs + terms.harvestMs + terms.ramMs + terms.deviceMs + terms.loadMs + terms.resumeMs;
  return { downtimeMs, terms: { ...terms, roundTripMs: Math.max(0, downtimeMs - known) }, verifyMs, heldMs };
}

/** What the destination says of its own clock, as far as it fits into what passed here. */
function atMost(reportedMs: number, passedMs: number): number {
  return reportedMs >= 0 ? Math.min(reportedMs, passedMs) : 0;
}
