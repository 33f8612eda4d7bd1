import { allPages } from '../round-record.js';
import type { SentRound } from '../source/sent-rounds.js';
import { type Estimate, guess, NOTHING, scaled, sumOf } from './estimate.js';
import { LinkRate } from './link-rate.js';
import { Samples } from './samples.js';

/** Of what was learned of pages before a round, this share still counts after it. */
const REMEMBERED = 0.25;

/** When the share of pages that are encoded differs by more than this from what is remembered, what is remembered is of no use. */
const OTHER_ENCODING = 0.3;

/** Seen over predicted, while no round was compared with its prediction: nothing was learned, so the interval is wide. */
const UNCOMPARED = guess(1, 0.25, 4);

/**
 * The same while only a lower bound of the link's rate is known: at least this share of what is expected (`low`), at most so many times what
 * the pages would take at the bound itself (`ofBound`).
 */
const LINK_UNKNOWN = { low: 0.02, ofBound: 1.5 };

/**
 * Seen with the guest paused over seen while it runs, where no stop-and-copy was seen. What waits for the link takes the same, and that is
 * expected: an expectation below it would pause guests for longer than the limit over a fast network. What waits for a processor takes
 * less, since a guest that is paused leaves its own to the sender: over loopback on 2 processors, with 1 to 8 vCPUs, a fifth to all of the
 * time. Up to `SLOW` (1 Gbit/s) a link is waited for, from `FAST` on processors are, or may be; between them it is somewhere between.
 */
const PAUSED_SLOW = guess(1, 0.5, 1.1);
const PAUSED_FAST = guess(1, 0.2, 1.1);
const SLOW = 125e6;
const FAST = 400e6;

/** A link of which nothing is known carries as much as this, or as little. Bytes per second. */
const FASTEST = 10e9;
const SLOWEST = 1e6;

/** From so many bytes on, a second round that waited for the link for this share of its time shows what the link carries from then on. */
const ENOUGH_BYTES = 4 * 2 ** 20;
const LOADED = 0.25;

/** On a thread that wakes up so late, processors are short, and leave the more to the sender once the guest is paused. Milliseconds. */
const SHORT_MS = 1.5;
/**
 * What a pause then makes of the time. Seen in 48 migrations (`npm run bench -- prediction`) on 2 processors with 1 to 8 vCPUs: a quarter to
 * all of it and a little more, a third in the median. The interval is wider at its lower end, since the rate was uncertain too.
 */
const PAUSED_SHORT = guess(0.32, 0.08, 1.3);

/** How far off a round trip is in the acknowledgement of a round: waking up two processes takes as long as a short one. Milliseconds. */
const WAKE_MS = 1;

/** What is known of pages: numbers, wire bytes, and milliseconds to look at them; recent rounds weigh more. */
interface PageCosts {
  readonly pages: number;
  readonly encoded: number;
  readonly bytes: number;
  readonly scanMs: number;
}

const NO_COSTS: PageCosts = { pages: 0, encoded: 0, bytes: 0, scanMs: 0 };

/**
 * Predicts how long it takes to send pages: their expected wire bytes, by how pages of that kind were encoded lately, over the link's rate;
 * the time to look at them; and a round trip for the acknowledgement.
 *
 * Every round of pre-copy is a rehearsal: what the model would have said of its pages is compared with what they took (without our own
 * limit), and the ratios make the interval.
 */
export class RamTerm {
  readonly #pageSize: number;
  /** By the number of channels: what one number of streams carries says little of another. */
  readonly #links = new Map<number, LinkRate>();
  #link = new LinkRate();
  #channels = 0;
  /** The rate with another number of channels, until this one has loaded the link; `was` was that number. */
  #before: { readonly bytesPerSecond: number; readonly was: number } | undefined;
  /** The rate at which device state and probes went, with this number of channels. */
  #state = new LinkRate();
  #costs = NO_COSTS;
  #rounds = 0;
  /** By how much this thread wakes up late while the guest runs, in milliseconds: above 0 processors are short. */
  lateMs = 0;
  readonly #ratios = new Samples();
  readonly #pausedRatios = new Samples();

  constructor(pageSize: number) {
    this.#pageSize = pageSize;
  }

  /** Pages travel on so many channels from now on. */
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

  /** Whether that rate was measured while the link was what the sender waited for. */
  get linkKnown(): boolean {
    return this.#link.known || this.#before !== undefined || this.#state.known;
  }

  /** Wire bytes of a page of the kind that the guest rewrites; `undefined` before any was sent. */
  get bytesPerPage(): number | undefined {
    return this.#costs.pages === 0 || this.#costs.bytes === 0 ? undefined : this.#costs.bytes / this.#costs.pages;
  }

  /** Learns from device state, or a probe, that was sent beside the pages; `busyMs` is the time in which the link was waited for. */
  stateSent(bytes: number, busyMs: number, wallMs: number): void {
    // Between two pieces the link carries what it has in its buffers: all of the time counts, and less than half of it shows nothing.
    if (busyMs >= wallMs / 2) this.#state.add(bytes, wallMs);
  }

  /** Another destination: round 1 comes again, over a link that may be another one, to a process that may be slower. */
  restarted(): void {
    this.#rounds = 0;
    this.#ratios.clear();
    this.#pausedRatios.clear();
  }

  /** Learns from a round that was sent; `paused`: with the guest paused. */
  sent(round: SentRound, roundTripMs: number, paused = false): void {
    const pages = allPages(round.pages);
    if (pages === 0) return;
    const wallMs = Math.max(0, round.burstWallMs - roundTripMs);
    const busyMs = Math.min(wallMs, Math.max(0, round.burstMs - roundTripMs));
    // Round 1 fills memory that the destination has to allocate; the pages of later rounds are there, and go faster.
    if (this.#rounds === 1 && round.burstBytes >= ENOUGH_BYTES && busyMs >= LOADED * wallMs) {
      this.#link = new LinkRate();
      this.#links.set(this.#channels, this.#link);
      this.#before = undefined;
      this.#ratios.clear();
    } else {
      this.#compare(round, pages, busyMs, paused);
    }
    // Its ratio is learned: if the rate were too, it would count twice.
    if (paused && this.linkKnown) return;
    this.#link.add(round.burstBytes, busyMs, wallMs);
    // Later rounds show the pages that the guest rewrites. Round 1 has all pages: if its zero pages counted, a guest whose RAM is
    // mostly zero would seem to have almost nothing to send. Of round 1 only pages with contents count.
    const first = ++this.#rounds === 1;
    const counted = first ? pages - round.pages.zero - round.pages.hole : pages;
    if (counted === 0) return;
    const now = {
      pages: counted,
      encoded: round.pages.delta + round.pages.compressed,
      bytes: round.wireBytes,
      scanMs: round.scanMs,
    };
    const before = this.#costs;
    const other = Math.abs(now.encoded / now.pages - before.encoded / Math.max(1, before.pages)) > OTHER_ENCODING;
    const keep = first || other ? 0 : REMEMBERED;
    this.#costs = {
      pages: before.pages * keep + now.pages,
      encoded: before.encoded * keep + now.encoded,
      bytes: before.bytes * keep + now.bytes,
      scanMs: before.scanMs * keep + now.scanMs,
    };
  }

  /**
   * Sending `pages` pages. `bytesPerSecond` is the link's rate while it is unknown. With `paused` the guest is paused, which leaves its
   * processors to the sender.
   */
  predict(pages: number, roundTrip: Estimate, paused: boolean, bytesPerSecond?: number): Estimate {
    if (pages === 0) return NOTHING;
    const ms = this.#bareMs(pages, bytesPerSecond);
    const exactly = { ms, lowMs: ms, highMs: ms };
    const ack = sumOf([roundTrip, { ms: 0, lowMs: 0, highMs: WAKE_MS }]);
    const seen = scaled(exactly, this.#ratio());
    if (!paused) return sumOf([seen, ack]);
    return sumOf([
      this.#pausedRatios.estimate === undefined
        ? scaled(seen, this.#pausedAt(this.bytesPerSecond ?? bytesPerSecond ?? 0))
        : scaled(exactly, this.#pausedRatio()),
      ack,
    ]);
  }

  /** Sending so many bytes that are no pages with the guest paused: the state of devices. */
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
    return scaled({ ms: at(known), lowMs: at(known), highMs: at(known) }, this.#pausedAt(known));
  }

  #pausedAt(bytesPerSecond: number): Estimate {
    return pausedAt(bytesPerSecond, this.lateMs >= SHORT_MS ? PAUSED_SHORT : PAUSED_FAST);
  }

  /** Without a round trip, and as the costs say it. */
  #bareMs(pages: number, otherwise?: number): number {
    const { pages: counted, bytes: seenBytes, scanMs: seenMs } = this.#costs;
    const bytes = pages * (counted > 0 ? seenBytes / counted : this.#pageSize);
    const scanMs = pages * (counted > 0 ? seenMs / counted : 0);
    const rate = this.linkKnown ? (this.bytesPerSecond ?? 0) : (otherwise ?? atLeast(this.bytesPerSecond ?? 0));
    const bytesPerMs = rate / 1000;
    const linkMs = bytesPerMs > 0 ? bytes / bytesPerMs : 0;
    // A lower bound of the rate has the time to look at pages in it.
    return this.linkKnown ? scanMs + linkMs : Math.max(scanMs, linkMs);
  }

  #ratio(): Estimate {
    const known = this.#ratios.estimate ?? UNCOMPARED;
    if (!this.linkKnown) {
      const least = this.bytesPerSecond ?? 0;
      return guess(1, LINK_UNKNOWN.low, (LINK_UNKNOWN.ofBound * atLeast(least)) / (least === 0 ? SLOWEST : least));
    }
    const { count } = this.#ratios;
    // A ratio that was seen once may be chance: the point moves towards it as they become more.
    // `Math.exp` and `Math.log` give the same number on every version of Node; a power does not.
    const point = Math.exp((Math.log(known.ms) * count) / (count + 2));
    const ratio = { ms: point, lowMs: Math.min(known.lowMs, point), highMs: Math.max(known.highMs, point) };
    if (this.#link.known || this.#before === undefined) return ratio;
    // Rates of single streams add up, or the link is shared: one or the other, or between.
    const { was } = this.#before;
    const share = was / this.#channels;
    return scaled(ratio, guess(1, Math.min(1, share), Math.max(1, share)));
  }

  #pausedRatio(): Estimate {
    return this.#pausedRatios.estimate ?? UNCOMPARED;
  }

  #compare(round: SentRound, pages: number, busyMs: number, paused: boolean): void {
    // Of round 1 nothing is known before, and what it has besides contents is not predicted.
    if (this.#rounds === 0 || !this.linkKnown || this.#costs.pages === 0 || round.burstBytes === 0) return;
    const predicted = this.#bareMs(pages);
    const seen = round.scanMs + (round.wireBytes * busyMs) / round.burstBytes;
    if (predicted <= 0 || seen <= 0) return;
    // A round of which too little went out at once says how long a wake-up takes.
    if (Math.max(predicted, seen) < WAKE_MS) return;
    (paused ? this.#pausedRatios : this.#ratios).add(seen / predicted);
  }
}

/**
 * What to expect of a link that has carried at least so many bytes per second, in rounds of a few pages: halfway to 1 Gbit/s, on a scale of
 * ratios. 0: it has carried nothing.
 */
function atLeast(least: number): number {
  return least === 0 ? SLOW : Math.max(least, Math.sqrt(least * SLOW));
}

/** By how much less time pages take once the guest is paused, over a link of this rate; `fast`: where processors are waited for. */
function pausedAt(bytesPerSecond: number, fast: Estimate): Estimate {
  const share = Math.min(1, Math.max(0, Math.log(bytesPerSecond / SLOW) / Math.log(FAST / SLOW)));
  const between = (slow: number, most: number) => slow + (most - slow) * share;
  const slow = PAUSED_SLOW;
  return guess(between(slow.ms, fast.ms), between(slow.lowMs, fast.lowMs), between(slow.highMs, fast.highMs));
}
