import type { MovedRunState } from '../protocol/frame.js';
import type { DowntimeTerms } from '../round-record.js';

/** When `pause` was called (`start`) and when each step after it ended, in milliseconds of the source's clock, in this order. */
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
  /** Milliseconds of loading, as the destination reports them. */
  readonly loadMs: number;
  readonly verifiedPages: number;
  readonly runState: MovedRunState;
  readonly attempt: number;
}

/** The destination's report that it runs the guest, and the time at which the report came. */
export interface HandedOver {
  /** How long it took there to start the guest, in milliseconds. */
  readonly resumeMs: number;
  /** From `ready` to the running guest, on the destination's clock. */
  readonly sinceReadyMs: number;
  /** When the report came, in milliseconds of the source's clock. */
  readonly heardAt: number;
}

/** The downtime that the guest saw, and its terms; `verifyMs` and `heldMs` are not part of it. Milliseconds. */
export interface Downtime {
  readonly downtimeMs: number;
  readonly terms: DowntimeTerms;
  readonly verifyMs: number;
  readonly heldMs: number;
}

/**
 * Computes the downtime: from the call of `pause` here until the guest ran at the destination. The destination counts the time from
 * its `ready` on its own clock, so that the time until `running` arrives after a lost link does not count. `roundTripMs` is the
 * link's round trip, half of which `ready` took to arrive.
 */
export function downtimeOf(times: PausedTimes, handed: HandedOver, verify: boolean, roundTripMs: number): Downtime {
  const heldMs = times.held - times.paused;
  const verifyMs = verify ? times.verified - times.ready : 0;
  const heard = handed.heardAt - times.start;
  const ran =
    times.ready - times.start - Math.min(roundTripMs / 2, times.ready - times.sentAgain) + handed.sinceReadyMs;
  // An impossible time of the destination's clock is ignored.
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

/** A time that the destination reports, limited to the time that passed on the source's clock. */
function atMost(reportedMs: number, passedMs: number): number {
  return reportedMs >= 0 ? Math.min(reportedMs, passedMs) : 0;
}
