/** What was learned counts half after so much further time of a busy link. Milliseconds. */
const HALF_LIFE_MS = 250;

/** One round counts for no more than this many milliseconds: a long one must not outlast many short ones that come after it. */
const MOST_MS = 500;

/** A round of fewer bytes is all latency: it teaches nothing, unless nothing is known, or the link was busy for so long with it. */
const LEAST_BYTES = 256 * 1024;
const LONG_MS = 500;

/** The link has to be waited for in at least this share of a round, or the round says how fast pages are looked at. */
const LEAST_SHARE = 0.25;

/**
 * The link's own rate, learned from rounds: bytes over the time spent waiting for the link. Scanning, waiting for the bandwidth limit
 * and harvesting do not count (in QEMU they do, and its predictions are wrong by the same factor).
 *
 * Rounds are weighed by the time in which they kept the link busy, and older ones count less with each millisecond of such time: a
 * changed link is believed after about a second of it, however many rounds that is. Rounds that do not load the link (next to no
 * bytes, or a processor that was busy looking at pages) teach nothing; before any that does, the best of them is a lower bound.
 */
export class LinkRate {
  #bytes = 0;
  #ms = 0;
  /** Bytes per second that the link carried at least. */
  #atLeast: number | undefined;

  /**
   * `busyMs` is the time in which the link was waited for, out of `wallMs` (default: all of it). Returns whether the round has loaded
   * the link, so that its rate was learned.
   */
  add(bytes: number, busyMs: number, wallMs = busyMs): boolean {
    if (bytes <= 0) return false;
    const much = bytes >= LEAST_BYTES || busyMs >= LONG_MS;
    const loaded = much && busyMs >= LEAST_SHARE * wallMs && busyMs > 0;
    if (!loaded) {
      if (this.#bytes === 0) this.#atLeast = Math.max(this.#atLeast ?? 0, (bytes / Math.max(wallMs, busyMs, 1)) * 1000);
      return false;
    }
    // Not a power: its last bit depends on the version of Node.
    const keep = Math.exp((-Math.LN2 * busyMs) / HALF_LIFE_MS);
    const share = Math.min(1, MOST_MS / busyMs);
    this.#bytes = this.#bytes * keep + bytes * share;
    this.#ms = this.#ms * keep + busyMs * share;
    return true;
  }

  /** True once a round has loaded the link; before that `bytesPerSecond` is only what it carried at least. */
  get known(): boolean {
    return this.#bytes > 0;
  }

  /** Bytes per second; `undefined` before anything was sent. */
  get bytesPerSecond(): number | undefined {
    return this.#bytes === 0 ? this.#atLeast : (this.#bytes / this.#ms) * 1000;
  }
}
