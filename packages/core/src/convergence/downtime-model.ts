import { type Clock, systemClock } from '../clock.js';
import { allPages, type DowntimeTerms } from '../round-record.js';
import type { SentRound } from '../source/round-sender.js';
import { LearnedTerms } from './learned-terms.js';
import { LinkRate } from './link-rate.js';

/** The terms before anything was learned, in milliseconds. Measured on a 2-vCPU guest over loopback. */
const FIRST_GUESS = { pauseMs: 1, harvestMs: 0.5, deviceMs: 2, loadMs: 5, roundTripMs: 1, resumeMs: 2 };

/** Harvests with the guest paused. */
const HARVESTS = 3;

/** Round trips that are kept; one is measured after each round, when the link is quiet. */
const ROUND_TRIPS_KEPT = 4;

/** What would have to be sent if the guest were paused now. */
export interface Pending {
  readonly dirtyPages: number;
  /** Bytes of device state, of the devices that can tell. */
  readonly deviceBytes: number;
  /** True when the guest is paused already: no more pages are written. */
  readonly paused?: boolean;
  /** What to go by while nothing is known of the link: its bytes per second in the round that is being sent. */
  readonly bytesPerSecond?: number;
}

/**
 * Predicts the downtime of a switchover now, as a sum of terms. Each term is learned from the measurements of this migration, or of an
 * earlier one (`prior`).
 */
export class DowntimeModel {
  readonly #prior: Partial<DowntimeTerms>;
  readonly #link = new LinkRate();
  readonly #pageSize: number;
  #rounds = 0;
  /** Pages that were sent, their wire bytes and the time to scan them; recent rounds weigh more. */
  #rewritten = { pages: 0, bytes: 0, scanMs: 0 };
  #harvestMs: number | undefined;
  /** The last few samples, of which the smallest counts: an outlier is ignored, and an old minimum soon forgotten. */
  readonly #roundTrips: number[] = [];
  readonly #learned: LearnedTerms;
  /** Pages that the guest wrote between the last harvest before a pause and the pause, in the last attempts. */
  #burstPages = 0;

  /** `prior`: terms of an earlier migration on this host, as `MigrationSummary.downtime` reports them. */
  constructor(prior: Partial<DowntimeTerms> = {}, pageSize = 4096, clock: Clock = systemClock) {
    this.#prior = prior;
    this.#pageSize = pageSize;
    this.#learned = new LearnedTerms(clock);
  }

  /** Pages of the kind that is being rewritten that go out in a second, at most at `limit` bytes per second (0: no limit). */
  pagesPerSecond(limit: number): number | undefined {
    const { bytesPerSecond } = this.#link;
    const { pages, bytes } = this.#rewritten;
    if (bytesPerSecond === undefined || pages === 0 || bytes === 0) return undefined;
    return ((limit > 0 ? Math.min(limit, bytesPerSecond) : bytesPerSecond) * pages) / bytes;
  }

  /** Learns that a term has taken `ms` in a stop-and-copy, given up or not. */
  measured(term: keyof DowntimeTerms, ms: number): void {
    this.#learned.measured(term, ms);
  }

  /** Learns that a stop-and-copy was given up when this term had been under way for `ms`. */
  overran(term: keyof DowntimeTerms, ms: number): void {
    this.#learned.overran(term, ms);
  }

  /** Learns how many pages more than predicted the harvest with the guest paused has found. */
  burst(pages: number): void {
    this.#burstPages = Math.max(pages, this.#burstPages / 2);
  }

  /** Bytes per second while the link was busy; 0 before anything was sent. */
  get linkBytesPerSecond(): number {
    return this.#link.bytesPerSecond ?? 0;
  }

  sent(round: SentRound): void {
    const pages = allPages(round.pages);
    if (pages === 0) return;
    const roundTripMs = this.#roundTripMs ?? 0;
    const wallMs = Math.max(0, round.burstWallMs - roundTripMs);
    this.#link.add(round.burstBytes, Math.min(wallMs, Math.max(0, round.burstMs - roundTripMs)), wallMs);
    // Later rounds show the pages that the guest rewrites. Round 1 has all pages: if its zero pages counted, a guest whose RAM is
    // mostly zero would seem to have almost nothing to send. Of round 1 only pages with contents count.
    const first = ++this.#rounds === 1;
    const counted = first ? pages - round.pages.zero - round.pages.hole : pages;
    if (counted === 0) return;
    const { pages: before, bytes, scanMs } = this.#rewritten;
    this.#rewritten = first
      ? { pages: counted, bytes: round.wireBytes, scanMs: round.scanMs }
      : { pages: before / 4 + counted, bytes: bytes / 4 + round.wireBytes, scanMs: scanMs / 4 + round.scanMs };
  }

  /** The destination begins anew: its first round has all pages again, those without contents too. */
  restarted(): void {
    this.#rounds = 0;
  }

  harvested(ms: number): void {
    this.#harvestMs = this.#harvestMs === undefined ? ms : (this.#harvestMs + ms) / 2;
  }

  roundTrip(ms: number): void {
    this.#roundTrips.push(ms);
    if (this.#roundTrips.length > ROUND_TRIPS_KEPT) this.#roundTrips.shift();
  }

  /** The shortest of the last few round trips, in milliseconds; 0 before the first. */
  get roundTripMs(): number {
    return this.#roundTripMs ?? 0;
  }

  get #roundTripMs(): number | undefined {
    return this.#roundTrips.length === 0 ? undefined : Math.min(...this.#roundTrips);
  }

  predict(pending: Pending): DowntimeTerms {
    const bytesPerMs = (this.#link.bytesPerSecond ?? pending.bytesPerSecond ?? 0) / 1000;
    const roundTripMs = this.#roundTripMs ?? this.#prior.roundTripMs ?? FIRST_GUESS.roundTripMs;
    const { pages, bytes: seenBytes, scanMs } = this.#rewritten;
    const dirtyPages = pending.dirtyPages + (pending.paused ? 0 : this.#burstPages);
    const bytes = dirtyPages * (pages > 0 ? seenBytes / pages : this.#pageSize);
    const ramMs =
      dirtyPages === 0
        ? 0
        : dirtyPages * (pages > 0 ? scanMs / pages : 0) + (bytesPerMs > 0 ? bytes / bytesPerMs : 0) + roundTripMs;
    const learned = this.#learned;
    return {
      pauseMs: learned.expected('pauseMs', this.#prior.pauseMs ?? FIRST_GUESS.pauseMs),
      // Three times: before device state is saved, after it, and once the destination is ready.
      harvestMs: HARVESTS * (this.#harvestMs ?? FIRST_GUESS.harvestMs),
      ramMs: learned.expected('ramMs', ramMs),
      deviceMs: learned.expected(
        'deviceMs',
        // What an earlier migration has seen says nothing of how much there is to save now.
        Math.max(
          this.#prior.deviceMs ?? 0,
          FIRST_GUESS.deviceMs + (bytesPerMs > 0 ? pending.deviceBytes / bytesPerMs : 0),
        ),
      ),
      loadMs: learned.expected('loadMs', this.#prior.loadMs ?? FIRST_GUESS.loadMs),
      // `switchover`/`ready` and `go`/`running`.
      roundTripMs: learned.expected('roundTripMs', 2 * roundTripMs),
      resumeMs: this.#prior.resumeMs ?? FIRST_GUESS.resumeMs,
    };
  }
}

/** The sum of all terms, in milliseconds. */
export function totalDowntime(terms: DowntimeTerms): number {
  return (
    terms.pauseMs + terms.harvestMs + terms.ramMs + terms.deviceMs + terms.loadMs + terms.roundTripMs + terms.resumeMs
  );
}

/** What of it no round can lower: everything but the pages, in milliseconds. */
export function fixedDowntime(terms: DowntimeTerms): number {
  return totalDowntime(terms) - terms.ramMs;
}
