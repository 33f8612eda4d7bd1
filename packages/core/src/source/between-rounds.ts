import type { RoundRecord } from '../round-record.js';
import type { SourceContext } from './source-context.js';

/**
 * The shortest time from one round to the next, in milliseconds. Without it a guest that dirties a few pages would cause thousands
 * of rounds a second.
 */
export const SHORTEST_ROUND_MS = 10;

/** How long a switchover that waits for an obstacle is postponed each time at first, in milliseconds; a round follows each wait. */
export const GATED_MS = 100;

/** The longest time between two rounds, however little the guest writes, in milliseconds. */
const LONGEST_MS = 1000;

/** The time between two questions whether to go on waiting, in milliseconds. */
const ASK_MS = 100;

/**
 * The number of quiet rounds in a row after which the next ones are twice as far apart, where only the policy asks for rounds. They are
 * close together until then because a harvest may find nothing dirty, which ends a migration whose limit is too low otherwise.
 */
const PATIENCE = 8;

/** A round counts as quiet when its dirty pages take at most this share of the downtime limit, or a millisecond. */
const QUIET_SHARE = 0.02;

/** The most dirty pages of a quiet round while nothing is known of the link. */
const QUIET_PAGES = 64;

/**
 * The time between two rounds. While rounds find almost nothing to send and go on, another round gains nothing: they come further and
 * further apart, up to a second, so that the migration of an idle guest takes almost no processor time. Anything that changes brings
 * the next round at once.
 */
export class BetweenRounds {
  readonly #context: SourceContext;
  #spacingMs = SHORTEST_ROUND_MS;
  #quietRounds = 0;

  constructor(context: SourceContext) {
    this.#context = context;
  }

  /**
   * Waits until the next round is due: after its time, or earlier once the embedder asks for something, the obstacle that `gate` names
   * may have changed, the link is lost, or `enough` (called every 100 ms) resolves with true. Rejects when the session ends, or
   * `enough` does.
   */
  async wait(
    record: RoundRecord,
    gate: 'readiness' | 'other' | undefined,
    enough: () => Promise<boolean>,
  ): Promise<void> {
    const { clock } = this.#context.options;
    const { signal } = this.#context.session;
    const dueMs = this.#dueMs(record, gate);
    // Such a short wait need not be ended early.
    if (gate === undefined && dueMs <= SHORTEST_ROUND_MS) {
      if (dueMs > 0) await clock.sleep(dueMs, signal).catch(() => {});
      signal.throwIfAborted();
      return;
    }
    const due = clock.now() + dueMs;
    for (;;) {
      const leftMs = due - clock.now();
      if (leftMs <= 0) break;
      const woken = await this.#sleep(Math.min(leftMs, ASK_MS), gate);
      signal.throwIfAborted();
      // At the last moment `enough` is not called, since the policy is asked after the round anyway.
      const changed = woken || (due - clock.now() > 0 && (await enough()));
      if (!changed) continue;
      this.#begin();
      break;
    }
    signal.throwIfAborted();
  }

  #dueMs(record: RoundRecord, gate: 'readiness' | 'other' | undefined): number {
    if (this.#isQuiet(record)) this.#quietRounds++;
    else this.#begin();
    if (gate === undefined) {
      if (this.#quietRounds > PATIENCE) {
        this.#quietRounds = 1;
        this.#spacingMs = Math.min(LONGEST_MS, this.#spacingMs * 2);
      }
      return this.#spacingMs - record.totalMs;
    }
    const spacingMs = Math.min(LONGEST_MS, GATED_MS * 2 ** Math.max(0, this.#quietRounds - 1));
    return Math.max(SHORTEST_ROUND_MS - record.totalMs, spacingMs);
  }

  /** Makes rounds as close as possible from now on. */
  #begin(): void {
    this.#spacingMs = SHORTEST_ROUND_MS;
    this.#quietRounds = 0;
  }

  /** A round is quiet when even twice its dirty pages would be almost nothing. */
  #isQuiet({ newlyDirtyPages }: RoundRecord): boolean {
    const { model, options } = this.#context;
    const pagesPerSecond = model.pagesPerSecond(options.bandwidthLimit);
    if (pagesPerSecond === undefined) return newlyDirtyPages <= QUIET_PAGES;
    return (2 * newlyDirtyPages * 1000) / pagesPerSecond <= Math.max(1, QUIET_SHARE * options.downtimeLimitMs);
  }

  /** Resolves with false after `ms`, or earlier with true when something has changed. */
  async #sleep(ms: number, gate: 'readiness' | 'other' | undefined): Promise<boolean> {
    const { options, session, readiness, requests } = this.#context;
    const over = new AbortController();
    const stop = () => over.abort();
    const ends = [session.signal, ...(session.current === undefined ? [] : [session.current.signal])];
    for (const signal of ends) signal.addEventListener('abort', stop, { once: true });
    const sleeping = options.clock.sleep(ms, over.signal).then(
      () => false,
      () => true,
    );
    try {
      // `prepared` comes once a round when devices yield new state, so it ends the wait only where the wait is for readiness.
      const changes = [requests.asked(over.signal), ...(gate === 'readiness' ? [readiness.changed(over.signal)] : [])];
      return await Promise.race([sleeping, ...changes.map((change) => change.then(() => true))]);
    } finally {
      over.abort();
      for (const signal of ends) signal.removeEventListener('abort', stop);
    }
  }
}
