/** What a carrier may swallow at once: the kernel's buffers of both ends (tcp_wmem and tcp_rmem allow 4 and 6 MiB). */
const SWALLOWED_BYTES = 8 * 2 ** 20;
/** A carrier that takes this long has swallowed what it can. */
const SWALLOWED_MS = 250;
/** A sample is taken over this many bytes, or over this long. */
const SAMPLE_BYTES = 8 * 2 ** 20;
const SAMPLE_MS = 250;
/** A pause this long ends a stretch: the carrier's buffers may be empty again. */
const PAUSE_MS = 5;

/**
 * How fast a channel's carrier takes raw pages, by the back-pressure of its writes: bytes over time in stretches without a
 * pause, from when its buffers are full. Reading and looking at pages is in that time: where that is what the link waits
 * for, fewer bytes do not make it faster.
 */
export class LinkPace {
  #bytesPerMs: number | undefined;
  /** How often that was measured. */
  samples = 0;
  #outstanding = 0;
  #idleSince = Number.NEGATIVE_INFINITY;
  #stretch = { startedAt: 0, bytes: 0 };
  #mark: { readonly at: number; readonly bytes: number } | undefined;

  /** Bytes per millisecond; `undefined` until the carrier was seen to be full. */
  get bytesPerMs(): number | undefined {
    return this.#bytesPerMs;
  }

  /** A write begins. */
  begun(now: number): void {
    if (this.#outstanding++ > 0) return;
    if (now - this.#idleSince > PAUSE_MS) this.restart(now);
  }

  /** A write of this many bytes has ended. */
  ended(bytes: number, now: number): void {
    if (--this.#outstanding === 0) this.#idleSince = now;
    this.#stretch.bytes += bytes;
    const { startedAt, bytes: total } = this.#stretch;
    const mark = this.#mark;
    if (mark === undefined) {
      if (total >= SWALLOWED_BYTES || now - startedAt >= SWALLOWED_MS) this.#mark = { at: now, bytes: total };
    } else if (total - mark.bytes >= SAMPLE_BYTES || (now - mark.at >= SAMPLE_MS && total > mark.bytes)) {
      const sample = (total - mark.bytes) / Math.max(now - mark.at, 0.001);
      this.#bytesPerMs = this.#bytesPerMs === undefined ? sample : (this.#bytesPerMs + sample) / 2;
      this.#mark = { at: now, bytes: total };
      this.samples++;
    }
  }

  /** What was counted since the last sample does not count. */
  restart(now: number): void {
    this.#stretch = { startedAt: now, bytes: 0 };
    this.#mark = undefined;
  }
}
