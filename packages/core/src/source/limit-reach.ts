import { fixedDowntime } from '../convergence/downtime-model.js';
import type { RoundOutcome } from '../convergence/policy.js';
import type { MigrationEvent } from '../migration-event.js';

/** Reports when no round can lower the downtime to the limit: once, until the limit is reachable again. */
export class LimitReach {
  readonly #emit: (event: MigrationEvent) => void;
  #reachable = true;

  constructor(emit: (event: MigrationEvent) => void) {
    this.#emit = emit;
  }

  /**
   * Checks a prediction against `limitMs`, at any moment. Before anything was sent the prediction is a guess, and nothing is
   * reported.
   */
  check({ prediction, linkBytesPerSecond }: RoundOutcome, limitMs: number): void {
    if (linkBytesPerSecond === 0) return;
    const fixedMs = fixedDowntime(prediction);
    const reachable = fixedMs <= limitMs;
    if (!reachable && this.#reachable) {
      this.#emit({ type: 'limit-unreachable', code: 'GODWIT_LIMIT_UNREACHABLE', limitMs, fixedMs, terms: prediction });
    }
    this.#reachable = reachable;
  }
}
