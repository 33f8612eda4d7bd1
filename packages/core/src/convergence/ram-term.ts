import type { ThreadsTime } from '../processor-time.js';
import { allPages } from '../round-record.js';
import { hidesLink, type SentRound } from '../source/sent-rounds.js';
import { type Estimate, guess, NOTHING, scaled, sumOf } from './estimate.js';
import { LinkRate } from './link-rate.js';
import { Samples } from './samples.js';

/** The share of earlier measurements of pages that still counts after a further round. */
const REMEMBERED = 0.25;

/** When the share of pages that are encoded differs by more than this from the remembered share, the remembered costs are dropped. */
const OTHER_ENCODING = 0.3;

/**
 * The ratio of measured to predicted time before any round was compared with its prediction: nothing was learned, so the interval is wide.
 */
const UNCOMPARED = guess(1, 0.35, 2.5);

/**
 * The ends of the same ratio while only a lower bound of the link's rate is known: `low` is a share of the expected time, `ofBound` a
 * multiple of the time that the pages would take at the bound itself.
 */
const LINK_UNKNOWN = { low: 0.02, ofBound: 1.5 };

/**
 * The time of pages with the guest paused divided by their time while it runs, used before any stop-and-copy was measured. Waiting for the
 * link takes the same time in both cases, so that 1 is expected: a smaller point would pause guests for longer than the limit over a fast
 * network. Waiting for a processor takes less, since a paused guest leaves its processors to the sender: over loopback on 2 processors,
 * with 1 to 8 vCPUs, a fifth to all of the time. Up to `SLOW` (1 Gbit/s) the sender waits for the link, from `FAST` on possibly for
 * processors; between the two rates the ratio is interpolated.
 */
const PAUSED_SLOW = guess(1, 0.5, 1.1);
const PAUSED_FAST = guess(1, 0.2, 1.1);
const SLOW = 125e6;
const FAST = 400e6;

/** The largest and the smallest rate that a link is assumed to have while nothing is known of it. Bytes per second. */
const FASTEST = 10e9;
const SLOWEST = 1e6;

/** From so many bytes on, a second round that waited for the link for this share of its time shows what the link carries from then on. */
const ENOUGH_BYTES = 4 * 2 ** 20;
const LOADED = 0.25;

/**
 * A probe is thrown away at the destination, and repeats the same few bytes: reading pages or device state at one end and putting them into
 * their place at the other goes on beside that, at this rate on 2 processors. Bytes per second: 0.9 GB in the median of 44 stop-and-copies
 * over loopback on one connection, mostly 0.5 to 1.5 (`npm run bench -- prediction`).
 */
const PLACED = 1e9;

/** The ends of the time with the guest paused, as shares of what a probe says of it. */
const PROBED = { low: 0.3, high: 2.5 };

/**
 * A thread that wakes up late by this much shows that processors are short: a pause then frees much of their time for the sender.
 * Milliseconds.
 */
const SHORT_MS = 1.5;
/**
 * The ratio of `PAUSED_FAST` when processors are short and it is not known how long threads wait for them. Seen in 48 migrations (`npm run
 * bench -- prediction`) on 2 processors with 1 to 8 vCPUs: a quarter to all of it and a little more, a third in the median. The interval is
 * wider at its lower end, since the rate was uncertain too.
 */
const PAUSED_SHORT = guess(0.32, 0.08, 1.3);

/**
 * The ends of the ratio of `PAUSED_FAST` where that is known, as shares of its point, which is `RAN_LEAST` at least: seen in the same
 * migrations. Nothing takes much longer with the guest paused than it did before.
 */
const RAN_LOW = 0.4;
const RAN_HIGH = 2.2;
const RAN_LEAST = 0.1;
const NO_SLOWER = 1.1;

/** The share of the processor times of earlier rounds that still counts after a further round. */
const TIMES_REMEMBERED = 0.75;

/**
 * The error of a round trip as part of a round's acknowledgement: waking up two processes takes as long as a short round trip.
 * Milliseconds.
 */
const WAKE_MS = 1;

/**
 * Weighted sums over the pages that were sent: pages, encoded pages, wire bytes, and milliseconds to scan them; recent rounds weigh more.
 */
interface PageCosts {
  readonly pages: number;
  readonly encoded: number;
  readonly bytes: number;
  /** Wire bytes of these pages with the guest paused, when no bandwidth limit makes encodings worth it. */
  readonly pausedBytes: number;
  readonly scanMs: number;
}

const NO_COSTS: PageCosts = { pages: 0, encoded: 0, bytes: 0, pausedBytes: 0, scanMs: 0 };

/**
 * Predicts how long it takes to send pages: their wire bytes (expected from how the last pages were encoded) divided by the link's rate,
 * the time to scan them, and a round trip for the acknowledgement.
 *
 * Every round of pre-copy is a rehearsal: the model's prediction for its pages is compared with the time that they took (without the
 * bandwidth limit), and the ratios give the interval.
 */
export class RamTerm {
  readonly #pageSize: number;
  /** The link's rate for each number of channels: the rate of some number of streams says little about another number. */
  readonly #links = new Map<number, LinkRate>();
  #link = new LinkRate();
  #channels = 0;
  /** The rate with the previous number of channels (`was`), used until the present number has loaded the link. */
  #before: { readonly bytesPerSecond: number; readonly was: number } | undefined;
  /** The rate at which device state and probes were sent with this number of channels. */
  #state = new LinkRate();
  /** Whether that rate is the one of a probe. */
  #probed = false;
  #costs = NO_COSTS;
  #rounds = 0;
  /** Whether the last round hid the rate of the link (`hidesLink`). */
  #hidden = false;
  /** By how many milliseconds this thread wakes up late while the guest runs: more than 0 shows that processors are short. */
  lateMs = 0;
  /** The processor time of the threads that send while the guest runs; recent rounds weigh more. */
  #ranMs = 0;
  #waitedMs = 0;
  /** The number of these threads. */
  #threads = 1;
  readonly #ratios = new Samples();
  readonly #pausedRatios = new Samples();

  constructor(pageSize: number) {
    this.#pageSize = pageSize;
  }

  /** Sets the number of channels on which pages travel from now on. */
  set channels(count: number) {
    if (count === this.#channels || count === 0) return;
    const { bytesPerSecond } = this;
    if (this.#channels > 0) {
      this.#before = this.#link.known ? { bytesPerSecond: bytesPerSecond as number, was: this.#channels } : undefined;
      this.#ratios.clear();
      this.#pausedRatios.clear();
      this.#link = this.#links.get(count) ?? new LinkRate();
      this.#state = new LinkRate();
    }
    this.#links.set(count, this.#link);
    this.#channels = count;
  }

  /** The link's own bytes per second; `undefined` before anything was sent. */
  get bytesPerSecond(): number | undefined {
    if (this.#link.known) return this.#link.bytesPerSecond;
    if (this.#before !== undefined) return this.#before.bytesPerSecond;
    return this.#state.known ? this.#state.bytesPerSecond : this.#link.bytesPerSecond;
  }

  /** Whether `bytesPerSecond` was measured in rounds in which the sender waited for the link. */
  get linkKnown(): boolean {
    return this.#link.known || this.#before !== undefined || this.#state.known;
  }

  /** Wire bytes of a page of the kind that the guest rewrites; `undefined` before any was sent. */
  get bytesPerPage(): number | undefined {
    return this.#costs.pages === 0 || this.#costs.bytes === 0 ? undefined : this.#costs.bytes / this.#costs.pages;
  }

  /** Learns from a probe of the link. */
  probed(bytes: number, ms: number): void {
    this.#state = new LinkRate();
    this.#state.add(bytes, ms);
    this.#probed = true;
  }

  /** Learns from device state that was sent beside the pages; `busyMs` is the time in which the link was waited for. */
  stateSent(bytes: number, busyMs: number, wallMs: number): void {
    // Between two pieces the link still sends what is in its buffers, so that the whole time counts; where the sender waited for the link
    // for less than half of it, no rate is learned.
    if (busyMs < wallMs / 2) return;
    this.#state.add(bytes, wallMs);
    this.#probed = false;
  }

  /**
   * Notes that the destination is another process: round 1 comes again, over a link that may be another one, to a process that may be
   * slower.
   */
  restarted(): void {
    this.#rounds = 0;
    this.#ratios.clear();
    this.#pausedRatios.clear();
  }

  /** Learns from a round that was sent; `paused`: with the guest paused. */
  sent(round: SentRound, roundTripMs: number, paused = false): void {
    const pages = allPages(round.pages);
    if (pages === 0) return;
    if (!paused) this.#ran(round.burstProcessor);
    const wallMs = Math.max(0, round.burstWallMs - roundTripMs);
    const busyMs = Math.min(wallMs, Math.max(0, round.burstMs - roundTripMs));
    // In round 1 the destination has to allocate the memory that is filled; in later rounds it is allocated, and the rounds are faster.
    this.#hidden = hidesLink(round);
    if (this.#hidden) {
      if (!this.linkKnown) this.#link.add(round.burstBytes, 0, wallMs);
    } else if (this.#rounds === 1 && round.burstBytes >= ENOUGH_BYTES && busyMs >= LOADED * wallMs) {
      this.#link = new LinkRate();
      this.#links.set(this.#channels, this.#link);
      this.#before = undefined;
      this.#ratios.clear();
    } else {
      this.#compare(round, pages, busyMs, paused);
    }
    // A round with the guest paused has taught its ratio; if it taught the rate too, it would count twice.
    if (paused && this.linkKnown) return;
    if (!this.#hidden) this.#link.add(round.burstBytes, busyMs, wallMs);
    // Later rounds show the pages that the guest rewrites. Round 1 has all pages: if its zero pages counted, a guest whose RAM is
    // mostly zero would seem to have almost nothing to send. Of round 1 only pages with contents count.
    const first = ++this.#rounds === 1;
    const counted = first ? pages - round.pages.zero - round.pages.hole : pages;
    if (counted === 0) return;
    const now = {
      pages: counted,
      encoded: round.pages.delta + round.pages.compressed,
      bytes: round.wireBytes,
      pausedBytes: round.wireBytes + (round.encodedForLimit === true ? round.savedBytes : 0),
      scanMs: round.scanMs,
    };
    const before = this.#costs;
    const other = Math.abs(now.encoded / now.pages - before.encoded / Math.max(1, before.pages)) > OTHER_ENCODING;
    const keep = first || other ? 0 : REMEMBERED;
    this.#costs = {
      pages: before.pages * keep + now.pages,
      encoded: before.encoded * keep + now.encoded,
      bytes: before.bytes * keep + now.bytes,
      pausedBytes: before.pausedBytes * keep + now.pausedBytes,
      scanMs: before.scanMs * keep + now.scanMs,
    };
  }

  /**
   * The time to send `pages` pages. `bytesPerSecond` is used while the link's rate is unknown. With `paused` the guest is paused, which
   * leaves its processors to the sender.
   */
  predict(pages: number, roundTrip: Estimate, paused: boolean, bytesPerSecond?: number): Estimate {
    if (pages === 0) return NOTHING;
    const ms = this.#bareMs(pages, paused, bytesPerSecond);
    const exactly = { ms, lowMs: ms, highMs: ms };
    const ack = sumOf([roundTrip, { ms: 0, lowMs: 0, highMs: WAKE_MS }]);
    if (!paused) return sumOf([scaled(exactly, this.#ratio()), ack]);
    if (this.#pausedRatios.estimate !== undefined) return sumOf([scaled(exactly, this.#pausedRatio()), ack]);
    // A probe is short, and waits for a processor less often than a round: halfway on a scale of ratios.
    const atRate = this.#pausedAt(this.bytesPerSecond ?? bytesPerSecond ?? 0);
    if (this.#onlyProbed) return sumOf([afterProbe(ms * Math.sqrt(atRate.ms), this.#pausedBytes(pages)), ack]);
    return sumOf([scaled(scaled(exactly, this.#ratio()), atRate), ack]);
  }

  /** The time to send this many bytes of device state with the guest paused. */
  sending(bytes: number, bytesPerSecond?: number): Estimate {
    if (bytes === 0) return NOTHING;
    const known = this.#state.known
      ? this.#state.bytesPerSecond
      : this.linkKnown
        ? this.bytesPerSecond
        : bytesPerSecond;
    const at = (rate: number) => (bytes / rate) * 1000;
    const least = this.bytesPerSecond ?? 0;
    if (known === undefined || known === 0)
      return guess(at(atLeast(least)), at(Math.max(least, FASTEST)), at(Math.max(least, SLOWEST)));
    const ms = at(known);
    const sent = scaled({ ms, lowMs: ms, highMs: ms }, this.#pausedAt(known));
    return this.#probed ? afterProbe(sent.ms, bytes) : sent;
  }

  /** Whether the rate of the link is that of a probe, and rounds hide their own. */
  get #onlyProbed(): boolean {
    return this.#hidden && !this.#link.known && this.#before === undefined && this.#state.known && this.#probed;
  }

  #ran(time: ThreadsTime | undefined): void {
    if (time === undefined) return;
    this.#threads = time.threads;
    this.#ranMs = this.#ranMs * TIMES_REMEMBERED + Math.max(0, time.ranMs);
    this.#waitedMs = this.#waitedMs * TIMES_REMEMBERED + Math.max(0, time.waitedMs);
  }

  /**
   * A thread that ran for a third of the time in which it was ready to run takes a third of the time once it has a processor for itself,
   * and so do those that it waits for on the same host. Without a guest that runs, the link is as much faster: that rate says whether
   * processors are waited for, or the link. Several threads wait for each other too, and will go on to do so: of the time that `n` threads
   * have waited, an `n`th is taken off.
   */
  #pausedAt(bytesPerSecond: number): Estimate {
    const ready = this.#ranMs + this.#waitedMs;
    if (ready === 0) return pausedAt(bytesPerSecond, this.lateMs >= SHORT_MS ? PAUSED_SHORT : PAUSED_FAST);
    const ran = Math.max(RAN_LEAST, 1 - this.#waitedMs / ready / this.#threads);
    return pausedAt(
      bytesPerSecond / ran,
      guess(ran, Math.min(PAUSED_FAST.lowMs, ran * RAN_LOW), Math.min(NO_SLOWER, ran * RAN_HIGH)),
    );
  }

  /** The time for the pages by their costs alone, without a round trip and without a ratio. */
  #bareMs(pages: number, paused: boolean, otherwise?: number): number {
    const { pages: counted, bytes: seenBytes, scanMs: seenMs } = this.#costs;
    const bytes = paused ? this.#pausedBytes(pages) : pages * (counted > 0 ? seenBytes / counted : this.#pageSize);
    const scanMs = pages * (counted > 0 ? seenMs / counted : 0);
    const rate = this.linkKnown ? (this.bytesPerSecond ?? 0) : (otherwise ?? atLeast(this.bytesPerSecond ?? 0));
    const bytesPerMs = rate / 1000;
    const linkMs = bytesPerMs > 0 ? bytes / bytesPerMs : 0;
    // A lower bound of the rate was measured over time that includes scanning, which must not be added again.
    return this.linkKnown ? scanMs + linkMs : Math.max(scanMs, linkMs);
  }

  /** Expected wire bytes of these pages with the guest paused. */
  #pausedBytes(pages: number): number {
    const { pages: counted, pausedBytes } = this.#costs;
    return pages * (counted > 0 ? pausedBytes / counted : this.#pageSize);
  }

  #ratio(): Estimate {
    const known = this.#ratios.estimate ?? UNCOMPARED;
    if (!this.linkKnown) {
      const least = this.bytesPerSecond ?? 0;
      return guess(1, LINK_UNKNOWN.low, (LINK_UNKNOWN.ofBound * atLeast(least)) / (least === 0 ? SLOWEST : least));
    }
    const { count } = this.#ratios;
    // A ratio that was seen once may be chance: the point moves towards the median as more ratios are seen. `Math.exp` and `Math.log` give
    // the same number on every version of Node; a power does not.
    const point = Math.exp((Math.log(known.ms) * count) / (count + 2));
    const ratio = { ms: point, lowMs: Math.min(known.lowMs, point), highMs: Math.max(known.highMs, point) };
    if (this.#link.known || this.#before === undefined) return ratio;
    // More streams may carry more in proportion, or share the same link: the interval reaches from one case to the other.
    const { was } = this.#before;
    const share = was / this.#channels;
    return scaled(ratio, guess(1, Math.min(1, share), Math.max(1, share)));
  }

  #pausedRatio(): Estimate {
    return this.#pausedRatios.estimate ?? UNCOMPARED;
  }

  #compare(round: SentRound, pages: number, busyMs: number, paused: boolean): void {
    // Nothing is known before round 1, so that it has no prediction to be compared with.
    if (this.#rounds === 0 || !this.linkKnown || this.#costs.pages === 0 || round.burstBytes === 0) return;
    const predicted = this.#bareMs(pages, paused);
    const seen = round.scanMs + (round.wireBytes * busyMs) / round.burstBytes;
    if (predicted <= 0 || seen <= 0) return;
    // The time of a round that sends too little at once is mostly that of a wake-up.
    if (Math.max(predicted, seen) < WAKE_MS) return;
    (paused ? this.#pausedRatios : this.#ratios).add(seen / predicted);
  }
}

/**
 * The expected rate of a link that has carried at least `least` bytes per second, in rounds of a few pages: halfway to 1 Gbit/s, on a scale
 * of ratios. `least` is 0 when it has carried nothing.
 */
function atLeast(least: number): number {
  return least === 0 ? SLOW : Math.max(least, Math.sqrt(least * SLOW));
}

/**
 * The time of pages with the guest paused divided by their time while it runs, over a link of this rate; `fast` is that ratio where the
 * sender waits for processors.
 */
function pausedAt(bytesPerSecond: number, fast: Estimate): Estimate {
  const share = Math.min(1, Math.max(0, Math.log(bytesPerSecond / SLOW) / Math.log(FAST / SLOW)));
  const between = (slow: number, most: number) => slow + (most - slow) * share;
  const slow = PAUSED_SLOW;
  return guess(between(slow.ms, fast.ms), between(slow.lowMs, fast.lowMs), between(slow.highMs, fast.highMs));
}

/** The time of `bytes` with the guest paused, where the rate is that of a probe, which says `ms`. */
function afterProbe(ms: number, bytes: number): Estimate {
  const most = Math.max(ms, (bytes / PLACED) * 1000);
  return guess(most, most * PROBED.low, most * PROBED.high);
}
