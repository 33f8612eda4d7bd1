/**
 * The link's own rate, learned from rounds: bytes over the time in which the link was the one we waited for. Scanning,
 * sleeping for our own limit and harvesting are not in it (in QEMU they are, and predictions miss by the same factor).
 *
 * Rounds are weighed by their bytes, with the weight of older rounds halved at each new one, so that a tiny round
 * (whose time is all latency) says little and a changed link is soon believed.
 */
export class LinkRate {
  #bytes = 0;
  #ms = 0;

  add(bytes: number, busyMs: number): void {
    this.#bytes = this.#bytes / 2 + bytes;
    this.#ms = this.#ms / 2 + busyMs;
  }

  /** Bytes per second; `undefined` before anything was sent. */
  get bytesPerSecond(): number | undefined {
    return this.#bytes === 0 ? undefined : (this.#bytes / Math.max(this.#ms, 0.001)) * 1000;
  }
}
