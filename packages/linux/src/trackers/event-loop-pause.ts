import { setImmediate } from 'node:timers/promises';

/** Lets the event loop turn when a long job has kept it for more than a millisecond. */
export class EventLoopPause {
  readonly #afterMs: number;
  #since = performance.now();

  constructor(afterMs = 1) {
    this.#afterMs = afterMs;
  }

  /** Call it between two steps of the job. */
  async ifDue(): Promise<void> {
    if (performance.now() - this.#since < this.#afterMs) return;
    await setImmediate();
    this.#since = performance.now();
  }
}
