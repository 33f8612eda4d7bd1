import type { PolicyInput, RoundOutcome } from '../policy.js';

/** The shortest time from one round to the next, in seconds: the engine begins no round earlier. */
const SHORTEST_ROUND_S = 0.01;

/**
 * The largest ratio of a round to the one before it that counts as converging: without a budget, a guest that is a little too fast would
 * otherwise seem slow enough.
 */
const SHRINK = 0.98;

/**
 * A round that left this share of what it had sent shows only a lower bound of the guest's rate: its whole working set was written again,
 * once or a hundred times.
 */
const SATURATED = 0.9;

/** Whether the round shows only a lower bound of the guest's rate. */
export function isSaturated({ dirtyPages, newlyDirtyPages }: RoundOutcome): boolean {
  return newlyDirtyPages >= dirtyPages * SATURATED;
}

/**
 * The least throttle at which the migration would converge in the time that is left, computed from one round; negative where the guest
 * could even write faster, above 1 where even a guest that writes nothing would be too late. `undefined` while the link's rate is
 * unknown, or when no round can reach the downtime limit.
 *
 * The model: vCPUs that are held back for a share t of their time write (1 - t) times as many pages as at full speed, as auto-converge in
 * QEMU assumes too. Trackers count distinct pages: of S pages in which the guest writes w pages a second, D(w) = S (1 - exp(-w T / S))
 * are dirty after T seconds if it chooses at random, min(S, w T) if it sweeps. Both are concave in w, so that a straight line through one
 * measurement is a bound on both sides: D(c w) >= c D(w) for c < 1, and D(c w) <= c D(w) for c > 1. A higher throttle that the line asks
 * for is therefore never higher than needed, and a lower throttle that it allows is enough. A guest whose working set is written whole in
 * each round seems to write exactly as fast as the link sends, however fast it writes: then the line asks for little more each time, and
 * the throttle goes up by steps, until a round leaves less than it has sent.
 *
 * Rounds converge when the guest writes more slowly than pages go out: C. Clark et al., Live Migration of Virtual Machines, NSDI 2005. In
 * the time that is left they must go out faster by what is owed above what fits into the pause, and at the end, when rounds are short,
 * the part of a round's time that is not sending counts as well.
 *
 * @param round a complete round, for the guest's rate and the throttle at which it was measured
 * @param leftMs milliseconds until the budget ends
 */
export function neededThrottle(round: RoundOutcome, input: PolicyInput, leftMs: number): number | undefined {
  const { outcome, pagesPerSecond, fixedDowntimeMs, downtimeLimitMs } = input;
  const { ramMs, roundTripMs } = outcome.prediction;
  const owed = outcome.newlyDirtyPages;
  if (pagesPerSecond === undefined || !(pagesPerSecond > 0) || !(ramMs > 0) || owed <= 0) return undefined;
  const fits = (owed * (downtimeLimitMs - fixedDowntimeMs)) / ramMs;
  if (!(fits > 0)) return undefined;
  const besideS = (outcome.harvestMs + roundTripMs / 2) / 1000;
  /** Pages per second that are sent in a round of `pages` pages. */
  const pace = (pages: number): number => pages / Math.max(SHORTEST_ROUND_S, besideS + pages / pagesPerSecond);
  const paceThen = round.totalMs > 0 ? (round.dirtyPages / round.totalMs) * 1000 : pagesPerSecond;
  const more = Math.max(0, owed - fits) / (Math.max(0, leftMs) / 1000);
  const onTheWay = Math.min(pace((owed + fits) / 2), paceThen) * SHRINK - more;
  const most = Math.min(pace(fits), onTheWay);
  const fullSpeed = round.dirtyPagesPerSecond / (1 - round.throttle);
  return 1 - most / fullSpeed;
}
