/** Bytes that a carrier may buffer: the kernel's buffers of both ends (tcp_wmem and tcp_rmem allow 4 and 6 MiB). */
const BUFFERED_BYTES = 8 * 2 ** 20;
/** After this many milliseconds of writing the carrier's buffers count as full. */
const BUFFERED_MS = 250;
/** A sample is taken over this many bytes, or this many milliseconds. */
const SAMPLE_BYTES = 8 * 2 ** 20;
const SAMPLE_MS = 250;
/** A pause of this many milliseconds ends a stretch of writes: the carrier's buffers may be empty again. */
const PAUSE_MS = 5;

/**
 * Measures the rate at which a channel's carrier takes raw pages, by the back-pressure of its writes: bytes over time in stretches
 * without a pause, from when its buffers are full. The rate includes the time to read and classify pages: where the link waits for
 * that work, sending fewer bytes does not help.
 */
export class LinkPace {
  #bytesPerMs: number | undefined;
  /** Number of samples so far. */
  samples = 0;
  #outstanding = 0;
  #idleSince = Number.NEGATIVE_INFINITY;
  #stretch = { startedAt: 0, bytes: 0 };
  #mark: { readonly at: number; readonly bytes: number } | undefined;

  /** Bytes per millisecond; `undefined` until the first sample. */
  get bytesPerMs(): number | undefined {
    return this.#bytesPerMs;
  }

  /** Notes that a write begins at `now`. */
  begun(now: number): void {
    if (this.#outstanding++ > 0) return;
    if (now - this.#idleSince > PAUSE_MS) this.restart(now);
  }

  /** Notes that a write of `bytes` has ended at `now`. */
  ended(bytes: number, now: number): void {
    if (--this.#outstanding === 0) this.#idleSince = now;
    this.#stretch.bytes += bytes;
    const { startedAt, bytes: total } = this.#stretch;
    const mark = this.#mark;
    if (mark === undefined) {
      if (total >= BUFFERED_BYTES || now - startedAt >= BUFFERED_MS) this.#mark = { at: now, bytes: total };
    } else if (total - mark.bytes >= SAMPLE_BYTES || (now - mark.at >= SAMPLE_MS && total > mark.bytes)) {
      const sample = (total - mark.bytes) / Math.max(now - mark.at, 0.001);
      this.#bytesPerMs = this.#bytesPerMs === undefined ? sample : (this.#bytesPerMs + sample) / 2;
      this.#mark = { at: now, bytes: total };
      this.samples++;
    }
  }

  /** Begins a new stretch: bytes since the last sample do not count. */
  restart(now: number): void {
    this.#stretch = { startedAt: now, bytes: 0 };
    this.#mark = undefined;
  }
}
