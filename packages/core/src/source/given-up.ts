import type { Harvest } from './harvester.js';

/** A stop-and-copy that was given up. The guest runs again; nothing of it is settled with the destination yet. */
export interface GivenUp {
  readonly attempt: number;
  /** Harvests whose pages the destination may not have. */
  readonly unsent: readonly Harvest[];
}
