import { type Clock, systemClock } from '../clock.js';
import type { DowntimeRanges, DowntimeTerms } from '../round-record.js';
import type { SentRound } from '../source/sent-rounds.js';
import { type DeviceOutlook, type LoadOutlook, loadingDevices, savingDevices } from './device-terms.js';
import { type Estimate, guess, NOTHING, scaled, sumOf, times } from './estimate.js';
import { LearnedTerms } from './learned-terms.js';
import { PageGrowth } from './page-growth.js';
import { RamTerm } from './ram-term.js';
import { Samples } from './samples.js';

/**
 * The value of each term before anything is learned, in milliseconds. Measured on a KVM guest of 1 to 8 vCPUs, on a host of 2 processors,
 * over loopback; the ends are those of a busy host.
 */
const FIRST_GUESS = {
  pauseMs: guess(0.6, 0.05, 8),
  harvestMs: guess(1.5, 0.06, 18),
  roundTripMs: guess(1.5, 0.1, 30),
  resumeMs: guess(1, 0, 9),
};

/** A thread that wakes up late by less than this has its processor for itself. Milliseconds. */
const NOTICED_MS = 1;

/** Harvests with the guest paused: before device state is saved, after it, and once the destination is ready. */
const HARVESTS = 3;

/**
 * The messages that the paused guest waits for, in round trips: `switchover` to the destination, `ready` back, `go` to the destination. The
 * guest does not wait for `running`. `WAKE_MS` is what the processes take to wake up for these messages, in milliseconds.
 */
const ROUND_TRIPS = 1.5;
const WAKE_MS = guess(2, 0, 5);

/** Round trips that are kept; some are measured before round 1, and one after each round, when the link is quiet. */
const ROUND_TRIPS_KEPT = 16;

/**
 * The lower end of the sum is this many times further from its point than it would be if the terms did not depend on each other: all terms
 * become shorter together, since a paused guest leaves its processors to all of them. Fitted, as the ends of RAM's term are, to 144 live
 * migrations on 2 processors (`npm run bench -- prediction`), so that nine in ten lie inside.
 */
const LOWER_TOGETHER = 1.1;

/** A term of this migration divided by the same term of an earlier one, which had other pages, devices and neighbours. */
const PRIOR = guess(1, 1 / 3, 3);

/**
 * The time of a harvest with the guest paused divided by that of one while it runs: the paused one finds fewer pages, and no vCPU wants the
 * processor.
 */
const HARVEST_PAUSED = guess(1, 0.3, 1.6);

/** What would have to be sent if the guest were paused now. */
export interface Pending {
  readonly dirtyPages: number;
  /** Bytes of device state, summed over the devices that report a size. */
  readonly deviceBytes: number;
  /** True when the guest is paused already: no more pages are written. */
  readonly paused?: boolean;
  /** The bytes per second in the round that is being sent, used while the link's rate is not known. */
  readonly bytesPerSecond?: number;
}

/** A prediction: its terms, and, for each term and for their sum, the interval that has the actual value in nine cases of ten. */
export interface Forecast {
  readonly prediction: DowntimeTerms;
  readonly predictionRange: DowntimeRanges;
  readonly predictedDowntimeMs: number;
  readonly predictedDowntimeRangeMs: readonly [low: number, high: number];
}

/**
 * Predicts the downtime of a switchover now, as a sum of terms, each with an interval. Each term is learned from the measurements of this
 * migration; before there are any, from an earlier migration (`prior`). docs/convergence.md says where each number comes from.
 */
export class DowntimeModel {
  readonly #prior: Partial<DowntimeTerms>;
  readonly #ram: RamTerm;
  readonly #growth = new PageGrowth();
  readonly #harvests = new Samples();
  readonly #pausedHarvests = new Samples();
  readonly #pauses = new Samples();
  readonly #rehearsals = new Samples();
  readonly #late = new Samples();
  /** The last few samples, of which the smallest counts: the others have waited for a processor, or behind other traffic. */
  readonly #roundTrips: number[] = [];
  readonly #roundTripSamples = new Samples();
  readonly #learned: LearnedTerms;
  #devices: DeviceOutlook = { count: 0, bytes: 0, expectedSaveMs: 0, expecting: 0 };
  #channels = 1;
  #load: LoadOutlook | undefined;
  #resume: Estimate | undefined;

  /** `prior`: terms of an earlier migration on this host, as `MigrationSummary.downtime` reports them. */
  constructor(prior: Partial<DowntimeTerms> = {}, pageSize = 4096, clock: Clock = systemClock) {
    this.#prior = prior;
    this.#ram = new RamTerm(pageSize);
    this.#learned = new LearnedTerms(clock);
  }

  /**
   * Sets the number of channels on which pages travel from now on. A rate that was learned with another number of channels becomes
   * uncertain.
   */
  set channels(count: number) {
    this.#channels = count;
    this.#ram.channels = count;
  }

  /** Takes what the devices report of their state now. */
  set devices(outlook: DeviceOutlook) {
    this.#devices = outlook;
  }

  /** Takes the destination's estimates of loading and of resuming; `undefined` for one that it does not have. */
  destination(load: LoadOutlook | undefined, resume: Estimate | undefined): void {
    this.#load = load;
    this.#resume = resume;
  }

  /**
   * The number of pages that are sent in a second, counting pages like those that the guest rewrites, within `limit` bytes per second (0:
   * no limit).
   */
  pagesPerSecond(limit: number): number | undefined {
    const { bytesPerSecond, bytesPerPage } = this.#ram;
    if (bytesPerSecond === undefined || bytesPerPage === undefined) return undefined;
    return (limit > 0 ? Math.min(limit, bytesPerSecond) : bytesPerSecond) / bytesPerPage;
  }

  /** Learns that a term has taken `ms` in a stop-and-copy, given up or not. */
  measured(term: keyof DowntimeTerms, ms: number): void {
    this.#learned.measured(term, ms);
    if (term === 'pauseMs') this.#pauses.add(ms);
  }

  /** Learns that a stop-and-copy was given up when this term had been under way for `ms`. */
  overran(term: keyof DowntimeTerms, ms: number): void {
    this.#learned.overran(term, ms);
  }

  /** Learns how long it took to kick all vCPUs while the guest runs (`MigratableVm.rehearsePause`). */
  rehearsed(ms: number): void {
    this.#rehearsals.add(ms);
  }

  /** Learns by how many milliseconds a wait ended too late, which shows how much else this thread and its processors had to do. */
  woke(lateMs: number): void {
    this.#late.add(lateMs);
    this.#ram.lateMs = this.#late.estimate?.ms ?? 0;
  }

  /** Learns how many pages more than predicted the harvest with the guest paused has found. */
  burst(pages: number): void {
    this.#growth.burst(pages);
  }

  /** Learns how many pages the guest has dirtied in so many milliseconds, and how many of these wait to be sent. */
  dirtied(newlyDirtyPages: number, sinceMs: number): void {
    this.#growth.dirtied(newlyDirtyPages, sinceMs);
  }

  /** Learns how long after a harvest the decision was made: the guest goes on writing until it is paused. */
  decided(ms: number): void {
    this.#growth.decided(ms);
  }

  /** Bytes per second while the link was busy; 0 before anything was sent. */
  get linkBytesPerSecond(): number {
    return this.#ram.bytesPerSecond ?? 0;
  }

  /** Learns from a round that was sent; `paused`: with the guest paused. */
  sent(round: SentRound, paused = false): void {
    this.#ram.sent(round, this.roundTripMs, paused);
  }

  /**
   * Learns from device state that was sent while the guest runs: bytes, the milliseconds that they took, and those of them in which the link
   * was waited for.
   */
  stateSent(bytes: number, busyMs: number, wallMs = busyMs): void {
    this.#ram.stateSent(bytes, busyMs, wallMs);
  }

  /** Learns from a probe of the link: bytes that the destination has thrown away, and the milliseconds that they took. */
  probed(bytes: number, ms: number): void {
    this.#ram.probed(bytes, ms);
  }

  /** Whether the link's rate was measured in rounds in which the sender waited for the link. */
  get linkKnown(): boolean {
    return this.#ram.linkKnown;
  }

  /**
   * Notes that the destination begins anew, in another process: the next round has all pages again, also those without contents, and the
   * old process's estimate of loading is void.
   */
  restarted(): void {
    this.#ram.restarted();
    this.#learned.forget('loadMs');
    this.#load = undefined;
    this.#resume = undefined;
    this.#roundTrips.length = 0;
    this.#roundTripSamples.clear();
  }

  /** Learns how long a harvest took; `paused`: with the guest paused. */
  harvested(ms: number, paused = false): void {
    (paused ? this.#pausedHarvests : this.#harvests).add(ms);
  }

  roundTrip(ms: number): void {
    this.#roundTrips.push(ms);
    this.#roundTripSamples.add(ms);
    if (this.#roundTrips.length > ROUND_TRIPS_KEPT) this.#roundTrips.shift();
  }

  /** The shortest of the last few round trips, in milliseconds; 0 before the first. */
  get roundTripMs(): number {
    return this.#roundTrips.length === 0 ? 0 : Math.min(...this.#roundTrips);
  }

  /** The prediction without its intervals. */
  predict(pending: Pending): DowntimeTerms {
    return this.forecast(pending).prediction;
  }

  /** The terms and their intervals. */
  forecast(pending: Pending): Forecast {
    const estimates = this.#estimates(pending);
    const total = sumOf(Object.values(estimates));
    const map = <T>(pick: (one: Estimate) => T) =>
      Object.fromEntries(Object.entries(estimates).map(([name, one]) => [name, pick(one)])) as Record<
        keyof DowntimeTerms,
        T
      >;
    const prediction = map(({ ms }) => ms);
    const leastMs = Object.values(estimates).reduce((sum, { lowMs }) => sum + lowMs, 0);
    return {
      prediction,
      predictionRange: map(({ lowMs, highMs }) => [lowMs, highMs] as const),
      predictedDowntimeMs: totalDowntime(prediction),
      predictedDowntimeRangeMs: [Math.max(leastMs, total.ms - LOWER_TOGETHER * (total.ms - total.lowMs)), total.highMs],
    };
  }

  #estimates(pending: Pending): Record<keyof DowntimeTerms, Estimate> {
    const learned = this.#learned;
    const roundTrip = this.#roundTripOnce();
    const pauseMs = learned.expected('pauseMs', this.#pauses.estimate ?? this.#rehearsedPause());
    return {
      pauseMs,
      harvestMs: learned.expected('harvestMs', this.#harvestMs()),
      ramMs: learned.expected('ramMs', this.#ramMs(pending, roundTrip, pauseMs)),
      deviceMs: learned.expected('deviceMs', this.#deviceMs(pending)),
      loadMs: learned.expected('loadMs', this.#loadMs(pending)),
      roundTripMs: learned.expected('roundTripMs', this.#answers(roundTrip)),
      resumeMs: learned.expected('resumeMs', this.#resume ?? this.#priorOr('resumeMs')),
    };
  }

  /**
   * The pause as rehearsals have measured it. On a thread that wakes late, a part of a rehearsal is the wait for that thread, which has
   * nothing to send once the guest is about to be paused: the upper end contains that part, the point does not.
   */
  #rehearsedPause(): Estimate {
    const otherwise = this.#priorOr('pauseMs');
    const seen = this.#rehearsals.estimate;
    if (seen === undefined) return otherwise;
    const late = this.#late.estimate;
    if (late === undefined || late.highMs < NOTICED_MS) return seen;
    const ms = Math.max(Math.min(seen.ms, otherwise.ms), seen.ms - late.highMs);
    return guess(ms, Math.min(seen.lowMs, otherwise.lowMs), seen.highMs);
  }

  /** The term of an earlier migration, or else the first guess. */
  #priorOr(term: keyof typeof FIRST_GUESS): Estimate {
    const prior = this.#prior[term];
    return prior === undefined ? FIRST_GUESS[term] : scaled(guess(prior, prior, prior), PRIOR);
  }

  #roundTripOnce(): Estimate {
    const seen = this.#roundTripSamples.estimate;
    if (seen === undefined) return times(this.#priorOr('roundTripMs'), 1 / ROUND_TRIPS);
    const least = this.roundTripMs;
    return guess(least, Math.min(seen.lowMs, least), seen.highMs);
  }

  #answers(roundTrip: Estimate): Estimate {
    if (this.#roundTripSamples.count === 0) return this.#priorOr('roundTripMs');
    return sumOf([times(roundTrip, ROUND_TRIPS), WAKE_MS]);
  }

  /** All harvests with the guest paused, together. */
  #harvestMs(): Estimate {
    const paused = this.#pausedHarvests.estimate;
    if (paused !== undefined) return times(paused, HARVESTS);
    const running = this.#harvests.estimate;
    return running === undefined ? this.#priorOr('harvestMs') : times(scaled(running, HARVEST_PAUSED), HARVESTS);
  }

  #ramMs({ dirtyPages, paused = false, bytesPerSecond }: Pending, roundTrip: Estimate, pause: Estimate): Estimate {
    const more = paused ? NOTHING : this.#growth.expected(dirtyPages, pause.ms);
    const point = this.#ram.predict(dirtyPages + more.ms, roundTrip, true, bytesPerSecond);
    if (more.highMs === 0 && more.lowMs === 0) return point;
    const low = this.#ram.predict(dirtyPages + more.lowMs, roundTrip, true, bytesPerSecond).ms;
    const high = this.#ram.predict(dirtyPages + more.highMs, roundTrip, true, bytesPerSecond).ms;
    return sumOf([point, { ms: 0, lowMs: low - point.ms, highMs: high - point.ms }]);
  }

  #deviceMs({ deviceBytes, bytesPerSecond }: Pending): Estimate {
    const sending = this.#ram.sending(deviceBytes, bytesPerSecond);
    const now = savingDevices(this.#devices, sending, this.#channels);
    const prior = this.#prior.deviceMs;
    if (prior === undefined) return now;
    // An earlier migration may have had less state to save: where sending the present state alone takes longer than its whole term, the
    // present estimate counts.
    const before = scaled(guess(prior, prior, prior), PRIOR);
    return sending.ms > prior ? guess(now.ms, now.lowMs, Math.max(now.highMs, before.highMs)) : before;
  }

  #loadMs({ deviceBytes }: Pending): Estimate {
    const prior = this.#prior.loadMs;
    const now = loadingDevices(this.#devices.count, deviceBytes, this.#load);
    if (this.#load !== undefined || prior === undefined) return now;
    const before = scaled(guess(prior, prior, prior), PRIOR);
    return guess(before.ms, before.lowMs, Math.max(before.highMs, now.highMs));
  }
}

/**
 * The sum of all terms, in milliseconds.
 *
 * @example
 * console.log(`${totalDowntime(round.prediction)} ms`); // round.predictedDowntimeMs
 */
export function totalDowntime(terms: DowntimeTerms): number {
  return (
    terms.pauseMs + terms.harvestMs + terms.ramMs + terms.deviceMs + terms.loadMs + terms.roundTripMs + terms.resumeMs
  );
}

/** The part of the downtime that no round can lower: everything but the pages, in milliseconds. */
export function fixedDowntime(terms: DowntimeTerms): number {
  return totalDowntime(terms) - terms.ramMs;
}
