/** A measurement counts half after the link was busy for this much longer. Milliseconds. */
const HALF_LIFE_MS = 250;

/** One round counts for no more than this many milliseconds: a long round must not outweigh the many short rounds after it. */
const MOST_MS = 500;

/**
 * The time of a round with fewer bytes is mostly latency: the rate is not learned from it, unless no rate is known or the link was
 * busy for `LONG_MS`.
 */
const LEAST_BYTES = 256 * 1024;
const LONG_MS = 500;

/**
 * A round shows the link's rate only if the sender waited for the link for at least this share of it; a shorter wait shows how fast
 * pages are scanned.
 */
const LEAST_SHARE = 0.25;

/**
 * The link's own rate, learned from rounds: bytes over the time spent waiting for the link. Scanning, waiting for the bandwidth limit
 * and harvesting do not count (QEMU counts them, and its predictions are wrong by the same factor).
 *
 * Rounds are weighted by the time for which they kept the link busy, and each millisecond of busy link makes older rounds count less:
 * the rate follows a changed link after about a second of busy link, however many rounds that is. From a round that does not load the
 * link (almost no bytes, or a processor that was busy scanning pages) no rate is learned; until a round loads the link, the best rate
 * so far is a lower bound.
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
    // `Math.exp` and not a power, whose last bit depends on the version of Node.
    const keep = Math.exp((-Math.LN2 * busyMs) / HALF_LIFE_MS);
    const share = Math.min(1, MOST_MS / busyMs);
    this.#bytes = this.#bytes * keep + bytes * share;
    this.#ms = this.#ms * keep + busyMs * share;
    return true;
  }

  /** True once a round has loaded the link; before that `bytesPerSecond` is a lower bound. */
  get known(): boolean {
    return this.#bytes > 0;
  }

  /** Bytes per second; `undefined` before anything was sent. */
  get bytesPerSecond(): number | undefined {
    return this.#bytes === 0 ? this.#atLeast : (this.#bytes / this.#ms) * 1000;
  }
}
