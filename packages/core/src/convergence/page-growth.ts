import { type Estimate, NOTHING } from './estimate.js';

/**
 * The time from a harvest to the pause that follows it, in which the policy and the destination are asked; used until one was timed.
 * Milliseconds.
 */
const GAP_MS = 1;

/** Rounds whose numbers of dirty pages show how large the working set is. */
const ROUNDS_KEPT = 8;

/**
 * Pages that the guest dirties from the last harvest before a pause until it stands still. The rate is that of the last round, but pages
 * that are dirty already do not become dirty twice: when all pages of the working set are dirty, none is added. The largest number of
 * pages that any of the last rounds has dirtied stands for the working set, which is right for writes in a random order; a guest that goes
 * through its pages in turn dirties them at its full rate, so that its full rate is the upper end of the estimate.
 */
export class PageGrowth {
  #pagesPerMs = 0;
  readonly #dirtied: number[] = [];
  #gapMs = GAP_MS;
  /** Pages that the guest wrote between the last harvest before a pause and the pause, in the last attempts. */
  #burstPages = 0;

  dirtied(pages: number, sinceMs: number): void {
    this.#pagesPerMs = sinceMs > 0 ? pages / sinceMs : 0;
    this.#dirtied.push(pages);
    if (this.#dirtied.length > ROUNDS_KEPT) this.#dirtied.shift();
  }

  decided(ms: number): void {
    if (Number.isFinite(ms) && ms >= 0) this.#gapMs = (this.#gapMs + Math.max(ms, GAP_MS)) / 2;
  }

  burst(pages: number): void {
    this.#burstPages = Math.max(pages, this.#burstPages / 2);
  }

  /**
   * Pages that become dirty, beside the `dirtyPages` known now, until a pause has ended that takes `pauseMs`. The "milliseconds" of the
   * estimate are pages.
   */
  expected(dirtyPages: number, pauseMs: number): Estimate {
    const most = Math.max(0, ...this.#dirtied);
    const share = most === 0 ? 0 : Math.max(0, 1 - dirtyPages / most);
    const full = this.#pagesPerMs * (this.#gapMs + pauseMs);
    const ms = Math.max(full * share, this.#burstPages);
    if (ms === 0 && full === 0) return NOTHING;
    return { ms, lowMs: 0, highMs: Math.max(2 * full, 2 * this.#burstPages) };
  }
}
