import type { RoundRecord } from '../round-record.js';
import type { Harvest } from './harvester.js';

/** A round of pre-copy that the destination has acknowledged. */
export interface PrecopyRound {
  readonly record: RoundRecord;
  /** The pages that the guest wrote meanwhile: the next round, or the first one of stop-and-copy. */
  readonly pending: Harvest;
}
