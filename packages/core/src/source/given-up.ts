import type { Harvest } from './harvester.js';

/** A stop-and-copy that was given up: the guest runs again, and the destination does not know yet. */
export interface GivenUp {
  readonly attempt: number;
  /** Harvests whose pages the destination may not have. */
  readonly unsent: readonly Harvest[];
}
