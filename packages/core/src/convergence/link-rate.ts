/**
 * The link's own rate, learned from rounds: bytes over the time spent waiting for the link. Scanning, waiting for the bandwidth limit
 * and harvesting do not count (in QEMU they do, and its predictions are wrong by the same factor).
 *
 * Rounds are weighed by their bytes, and the weight of older rounds is halved at each new one, so that a tiny round (whose time is
 * mostly latency) counts little, and a changed rate is learned soon.
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
