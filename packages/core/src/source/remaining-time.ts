import type { DirtyCurve, Growth } from './dirty-curve.js';

/** Rounds that are added up at most. */
const MOST_ROUNDS = 500;

/** Rounds in a row that do not shrink by a hundredth, after which the guest counts as not converging. */
const NOT_SHRINKING = 0.99;

/** The shortest time from one round to the next, in milliseconds. */
const SHORTEST_ROUND_MS = 10;

/** The relative error of the rate at which pages are sent, up and down. */
const RATE_ERROR = 0.06;

/** After one harvest the remaining time counts as unknown when the ends of its range differ by more than this factor. */
const FAR_APART = 7;

/** The factors of the dirty rate over which the remaining time is averaged: near the limit one more page means another round. */
const FACTORS = [0.92, 0.96, 1, 1.04, 1.08];

/** The values on which the remaining time depends. */
export interface Outlook {
  /** Milliseconds until this round has sent the rest of its pages. */
  readonly roundLeftMs: number;
  /** The wait before the next round, which the bandwidth limit causes for bytes that were sent before. Milliseconds. */
  readonly debtMs: number;
  /** Milliseconds since the last harvest. */
  readonly sinceHarvestMs: number;
  /** Pages that are sent in a second, with the guest running, and with the guest paused, which is without the bandwidth limit. */
  readonly pagesPerSecond: number;
  readonly pausedPagesPerSecond: number;
  /** The time of a round apart from its pages: acknowledgement and harvest. Milliseconds. */
  readonly roundMs: number;
  /** The downtime with no page left, and the downtime limit. Milliseconds. */
  readonly fixedMs: number;
  readonly downtimeLimitMs: number;
}

export interface RemainingTime {
  readonly ms: number;
  readonly range: readonly [low: number, high: number];
}

/**
 * The time until the guest runs at the destination: the rest of this round, the rounds that follow until the rest fits into the
 * limit, and the downtime. The range comes from the likely errors of the measured values. `undefined` while the guest does not
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
  // A hot set that does not fit into the limit shows at the next harvest; if it fits, the next round is the last.
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
