import type { Labels, MetricSink } from './metric-list.js';

/** Counts the migrations of one sink by their state. */
export class ActiveStates {
  readonly #sink: MetricSink;
  readonly #counts = new Map<string, number>();

  constructor(sink: MetricSink) {
    this.#sink = sink;
  }

  /**
   * Counts a migration's step from one state to another; `undefined` stands for the time before the first state and
   * after the last.
   */
  enter(from: string | undefined, to: string | undefined, labels: Labels): void {
    if (from !== undefined) this.#change({ ...labels, state: from }, -1);
    if (to !== undefined) this.#change({ ...labels, state: to }, 1);
  }

  #change(labels: Labels, by: number): void {
    const key = JSON.stringify(Object.entries(labels).sort());
    const count = (this.#counts.get(key) ?? 0) + by;
    this.#counts.set(key, count);
    this.#sink.set('active', count, labels);
  }
}
