/** The largest share of time for which a vCPU is held back; QEMU's limit is the same. */
const MOST_FRACTION = 0.99;
/** The longest time in the guest between two holds, in milliseconds; QEMU's (CPU_THROTTLE_TIMESLICE_NS in system/cpu-throttle.c) as well. */
const LONGEST_RUN_MS = 10;
/** The shortest time in the guest between two holds, in milliseconds: leaving the guest and entering it again takes some 0.05 ms. */
const SHORTEST_RUN_MS = 0.1;
/** The hold to aim for, in milliseconds. QEMU shortens no run: at 99 % its holds take 990 ms. */
const USUAL_HOLD_MS = 10;
/** The share of the bound that a hold may take, as long as the run before it can be made shorter instead. */
const SHARE_OF_BOUND = 0.25;
/** The longest hold that makes up for a run that was too long, in milliseconds, also where `longestMs` is longer. */
const LONGEST_MAKING_UP_MS = 25;
/** A remainder of a hold that is shorter than this is left out. Milliseconds. */
const NEGLIGIBLE_MS = 0.05;

/** How long a throttled vCPU runs at a time, and how long it is held afterwards. */
export interface Slice {
  readonly runMs: number;
  readonly holdMs: number;
}

/**
 * The slice for a fraction of time in which a vCPU does not run. Runs become shorter as the fraction grows, so that a hold stays at 10 ms
 * and below a quarter of `longestMs`. Past the shortest run holds grow, up to `longestMs`; past `longestMs` the bound applies, and the vCPU
 * is held for a smaller fraction than requested.
 *
 * @param fraction above 0 and below 1
 * @param longestMs bound of a hold, in milliseconds; Infinity for none
 */
export function sliceOf(fraction: number, longestMs: number): Slice {
  const heldPerRun = fraction / (1 - fraction);
  const aim = Math.min(USUAL_HOLD_MS, longestMs * SHARE_OF_BOUND);
  const runMs = Math.min(LONGEST_RUN_MS, Math.max(SHORTEST_RUN_MS, aim / heldPerRun));
  return { runMs, holdMs: Math.min(runMs * heldPerRun, longestMs) };
}

/** The fraction as it is carried out. @throws RangeError when it is not between 0 and 1 */
export function throttleFraction(fraction: number): number {
  if (!(fraction >= 0 && fraction <= 1)) throw new RangeError(`a throttle is between 0 and 1, got ${fraction}`);
  return Math.min(fraction, MOST_FRACTION);
}

/**
 * The slices of one vCPU, for its thread. It counts how long the vCPU really ran and was held, since a thread leaves the guest late on a
 * busy host: the excess of a run is added to its hold, or to the next one.
 *
 * ```
 * const holdMs = slices.due(now);
 * if (holdMs > 0) slices.held(wait(holdMs));
 * else run the guest, for at most `slices.runMs`
 * ```
 */
export class ThrottleSlices {
  #fraction = 0;
  #longestMs = Number.POSITIVE_INFINITY;
  #slice: Slice = { runMs: LONGEST_RUN_MS, holdMs: 0 };
  #owedMs = 0;
  #heldMs = 0;
  #runSince: number | undefined;

  /** Whether the vCPU is throttled. */
  get active(): boolean {
    return this.#fraction > 0;
  }

  /** How long the vCPU may run at a time, in milliseconds. */
  get runMs(): number {
    return this.#slice.runMs;
  }

  /** Sets the throttle at once: of the holds that are owed by an older fraction, at most one hold of the new one is left. */
  set(fraction: number, longestMs: number): void {
    if (fraction === this.#fraction && longestMs === this.#longestMs) return;
    this.#fraction = fraction;
    this.#longestMs = longestMs;
    this.#slice = fraction > 0 ? sliceOf(fraction, longestMs) : { runMs: LONGEST_RUN_MS, holdMs: 0 };
    this.#owedMs = Math.min(this.#owedMs, this.#slice.holdMs);
    if (fraction === 0) this.#runSince = undefined;
  }

  /**
   * How long to hold the vCPU now, in milliseconds; 0: it runs, and its run began now or earlier.
   *
   * @param now milliseconds of a monotonic clock
   */
  due(now: number): number {
    if (this.#fraction === 0) return 0;
    if (this.#runSince === undefined) {
      const rest = Math.min(this.#owedMs, this.#longestHold() - this.#heldMs);
      if (rest > NEGLIGIBLE_MS) return rest;
      this.#runSince = now;
      this.#heldMs = 0;
      return 0;
    }
    // A run counts as over after 95 % of its time: else a timer that fires a little early would cost another slice.
    if (now - this.#runSince < this.#slice.runMs * 0.95) return 0;
    this.leave(now);
    return this.due(now);
  }

  /** Whether a run began at this time. */
  beganAt(now: number): boolean {
    return this.#runSince === now;
  }

  /** Notes that the vCPU was held for this long, in milliseconds. */
  held(ms: number): void {
    this.#heldMs += ms;
    this.#owedMs = Math.max(0, this.#owedMs - ms);
  }

  /** Notes that the vCPU leaves the guest, for a hold or a pause. */
  leave(now: number): void {
    if (this.#runSince === undefined) return;
    const { runMs, holdMs } = this.#slice;
    const ran = now - this.#runSince;
    this.#runSince = undefined;
    // A thread that was not scheduled for a long time is not held for as long: two holds, at most.
    this.#owedMs = Math.min(this.#owedMs + (ran / runMs) * holdMs, 2 * this.#longestHold());
  }

  #longestHold(): number {
    const makingUp = Math.min(this.#longestMs * SHARE_OF_BOUND, LONGEST_MAKING_UP_MS);
    return Math.min(this.#longestMs, Math.max(2 * this.#slice.holdMs, makingUp));
  }
}
