/** The time over which the rate is measured, approximately. Milliseconds. */
const WINDOW_MS = 1000;

/** Writes within this time of each other count as one: a second then has a hundred at most. */
const SLICE_MS = 10;

/** The fewest writes from which the rate is computed, also where the window has fewer. */
const LEAST_WRITES = 3;

/** Writes from before this time are forgotten, in milliseconds. */
const MEMORY_MS = 10_000;

/** Writing has stopped when nothing was written for longer than this many times the longest pause in the window. */
const PAUSE_FACTOR = 1.5;

interface Write {
  readonly at: number;
  /** Bytes that had been written at `at`. */
  readonly bytes: number;
}

/**
 * The rate at which bytes go out, measured from write to write. Bytes in a fixed time would jump with each burst of a bandwidth limit, or
 * with each batch on a slow link; between the beginnings of two bursts there are only whole bursts, with the pauses after them.
 */
export class WireRate {
  readonly #writes: Write[] = [];

  /** Notes that a write begins, `bytes` having been written before. Only the first call in 10 ms takes any time. */
  note(now: number, bytes: number): void {
    const last = this.#writes.at(-1);
    if (last !== undefined && now - last.at < SLICE_MS) return;
    this.#writes.push({ at: now, bytes });
    if (now - (this.#writes[0] as Write).at > 2 * MEMORY_MS) this.#forget(now);
  }

  /** The present bytes per second, after `bytes` bytes were written. */
  at(now: number, bytes: number): number {
    this.#forget(now);
    const writes = this.#writes;
    const last = writes.at(-1);
    if (last === undefined) {
      this.note(now, bytes);
      return 0;
    }
    let from = writes.length - 1;
    while (from > 0 && (writes.length - from < LEAST_WRITES || (writes[from - 1] as Write).at >= now - WINDOW_MS))
      from--;
    let longestMs = 0;
    for (let i = from + 1; i < writes.length; i++) {
      longestMs = Math.max(longestMs, (writes[i] as Write).at - (writes[i - 1] as Write).at);
    }
    const quietMs = now - last.at;
    // Writes of frames other than pages and device state are not noted elsewhere, and are noted here.
    if (quietMs > Math.max(WINDOW_MS, PAUSE_FACTOR * longestMs) && bytes > last.bytes) this.note(now, bytes);
    if (quietMs > Math.max(WINDOW_MS, 2 * PAUSE_FACTOR * longestMs)) return perSecond(bytes - last.bytes, quietMs);
    const first = writes[from] as Write;
    if (last.at > first.at && quietMs <= PAUSE_FACTOR * longestMs) {
      return perSecond(last.bytes - first.bytes, last.at - first.at);
    }
    // A single write shows no rate, so its bytes count over a whole window.
    return perSecond(bytes - first.bytes, last.at > first.at ? now - first.at : Math.max(now - first.at, WINDOW_MS));
  }

  #forget(now: number): void {
    const writes = this.#writes;
    let old = 0;
    while (old < writes.length - LEAST_WRITES && now - (writes[old] as Write).at > MEMORY_MS) old++;
    if (old > 0) writes.splice(0, old);
  }
}

function perSecond(bytes: number, ms: number): number {
  return ms > 0 ? Math.max(0, (bytes / ms) * 1000) : 0;
}
