import type { DirtyCurve, Growth } from './dirty-curve.js';

/** Rounds that are added up at most. */
const MOST_ROUNDS = 500;

/** Rounds in a row that do not shrink by a hundredth, after which the guest counts as not converging. */
const NOT_SHRINKING = 0.99;

/** The shortest time from one round to the next, in milliseconds. */
const SHORTEST_ROUND_MS = 10;

/** How wrong the rate at which pages go out may be, up and down. */
const RATE_ERROR = 0.06;

/** After one harvest, what is further apart than this factor is nothing that is known. */
const FAR_APART = 7;

/** The middle is the mean over these factors of the dirty rate: near the limit one page more means another round. */
const FACTORS = [0.92, 0.96, 1, 1.04, 1.08];

/** What the time that is left depends on. */
export interface Outlook {
  /** Milliseconds until what this round still has to send has gone out. */
  readonly roundLeftMs: number;
  /** What the next round waits for before it sends: the bandwidth limit, for what was sent before. Milliseconds. */
  readonly debtMs: number;
  /** Milliseconds since the last harvest. */
  readonly sinceHarvestMs: number;
  /** Pages that go out in a second, with the guest running, and paused, which the bandwidth limit does not hold back. */
  readonly pagesPerSecond: number;
  readonly pausedPagesPerSecond: number;
  /** What a round takes beside its pages: acknowledgement and harvest. Milliseconds. */
  readonly roundMs: number;
  /** What the guest is down for with no page left, and what it may be down for. Milliseconds. */
  readonly fixedMs: number;
  readonly downtimeLimitMs: number;
}

export interface RemainingTime {
  readonly ms: number;
  readonly range: readonly [low: number, high: number];
}

/**
 * The time until the guest runs at the destination: the rest of this round, the rounds that follow until what is left fits into the
 * limit, and the downtime then. Its range is that of the likely errors of what was measured. `undefined` while the guest does not
 * converge, or would not if it wrote a little faster than it seems to.
 */
export function remainingTime(curve: DirtyCurve, outlook: Outlook): RemainingTime | undefined {
  const shapes = curve.growth();
  if (shapes === undefined) return undefined;
  const { least, likely, most, hot } = shapes;
  let sum = 0;
  let low = Number.POSITIVE_INFINITY;
  let high = 0;
  for (const factor of FACTORS) {
    const ms = untilThere({ pages: (time) => factor * likely.pages(time) }, outlook, 1);
    if (ms === undefined) return undefined;
    sum += ms;
    low = Math.min(low, ms);
    high = Math.max(high, ms);
  }
  const ms = sum / FACTORS.length;
  low = Math.min(low, untilThere(least, outlook, 1 + RATE_ERROR) ?? low);
  high = Math.max(high, untilThere(most, outlook, 1 - RATE_ERROR) ?? Number.POSITIVE_INFINITY);
  if (hot === undefined) return { ms, range: [low, high] };
  // A hot set that does not fit will be seen soon enough; one that does makes the next round the last.
  high = Math.max(high, untilThere(hot, outlook, 1) ?? 0);
  return high > FAR_APART * low ? undefined : { ms, range: [low, high] };
}

function untilThere(growth: Growth, outlook: Outlook, speed: number): number | undefined {
  const {
    roundLeftMs,
    debtMs,
    sinceHarvestMs,
    pagesPerSecond,
    pausedPagesPerSecond,
    roundMs,
    fixedMs,
    downtimeLimitMs,
  } = outlook;
  let ms = roundLeftMs / speed;
  let pages = growth.pages(sinceHarvestMs + ms);
  let stuck = 0;
  for (let rounds = 0; rounds < MOST_ROUNDS; rounds++) {
    const downMs = fixedMs + (pages / (pausedPagesPerSecond * speed)) * 1000;
    if (downMs <= downtimeLimitMs || pages < 0.5) return ms + downMs;
    const waitMs = rounds === 0 ? debtMs : 0;
    const takes = Math.max(SHORTEST_ROUND_MS, roundMs + waitMs + (pages / (pagesPerSecond * speed)) * 1000);
    ms += takes;
    const next = growth.pages(takes);
    stuck = next > NOT_SHRINKING * pages ? stuck + 1 : 0;
    if (stuck > 2) return undefined;
    pages = next;
  }
  return undefined;
}
