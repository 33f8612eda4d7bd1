import { getEventListeners } from 'node:events';
import { afterEach, beforeEach, expect } from '@jest/globals';

/** The number of interruptions in a test, at each of which the listeners are counted. */
export const CUTS = 30;

/** Longer than all pauses together. Milliseconds. */
export const LONG = { reconnectTimeoutMs: 600_000, settleTimeoutMs: 600_000, progressIntervalMs: 0 } as const;

/** Every signal that somebody has listened to since the test began, and that has not aborted. */
const heard = new Set<AbortSignal>();
const { addEventListener } = EventTarget.prototype;

/** Notes in each test of a file which signals are listened to. */
export function countListeners(): void {
  beforeEach(() => {
    heard.clear();
    EventTarget.prototype.addEventListener = function (this: EventTarget, ...given) {
      if (this instanceof AbortSignal) heard.add(this);
      addEventListener.apply(this, given);
    };
  });

  afterEach(() => {
    EventTarget.prototype.addEventListener = addEventListener;
  });
}

/** Listeners of each signal that has not aborted; the signals in the order in which they were first listened to. */
function listeners(): Map<AbortSignal, number> {
  for (const signal of heard) if (signal.aborted) heard.delete(signal);
  return new Map([...heard].map((signal) => [signal, getEventListeners(signal, 'abort').length] as const));
}

/** How many listeners each signal has at each cut. */
export class Count {
  readonly #atCuts: Map<AbortSignal, number>[] = [];

  get cuts(): number {
    return this.#atCuts.length;
  }

  take(): void {
    this.#atCuts.push(listeners());
  }

  expectConstant(): void {
    const lasting = [...heardAtFirst(this.#atCuts)];
    // Of the source: the end of the migration, and the embedder's signal. The same of the destination.
    expect(lasting.length).toBeGreaterThanOrEqual(4);
    const most = (counts: readonly Map<AbortSignal, number>[]) =>
      lasting.map((signal) => Math.max(...counts.map((count) => count.get(signal) ?? 0)));
    const all = (counts: readonly Map<AbortSignal, number>[]) =>
      Math.max(...counts.map((count) => [...count.values()].reduce((sum, one) => sum + one, 0)));
    const [early, late] = [this.#atCuts.slice(0, CUTS / 3), this.#atCuts.slice(-CUTS / 3)];
    for (const [index, count] of most(late).entries()) expect(count).toBeLessThanOrEqual(most(early)[index] as number);
    // Nor do signals that were made since outlive their connections.
    expect(all(late)).toBeLessThanOrEqual(all(early));
    expect(Math.max(...most(this.#atCuts))).toBeLessThanOrEqual(10);
  }
}

/** Signals that have not aborted from the first cut to the last. */
function heardAtFirst(atCuts: readonly Map<AbortSignal, number>[]): Set<AbortSignal> {
  const lasting = new Set(atCuts[0]?.keys());
  for (const counts of atCuts) for (const signal of lasting) if (!counts.has(signal)) lasting.delete(signal);
  return lasting;
}
