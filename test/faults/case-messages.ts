import type { UncutBytes } from './all-cases.js';
import type { Leftovers } from './leftovers.js';

/** The result of a case: a fault in the link, a death, or a case of many migrations. */
export interface CaseResult {
  /** Whether the fault struck: a run may end before its place is reached. */
  readonly struck: boolean;
  /** How the case ended, for counting: `moved`, `moved, reconnected`, `stayed: GODWIT_LINK_LOST`, ... */
  readonly ending: string;
  /** What is wrong, as texts; empty if nothing is. */
  readonly problems: readonly string[];
  /** Printed instead of the endings. */
  readonly summary?: string;
  /** Number of cases that it counts as (default 1). */
  readonly cases?: number;
}

/** Orders to a worker process. */
export type CaseOrder =
  | { readonly order: 'run'; readonly name: string; readonly seed: number }
  | { readonly order: 'end' };

/** Reports of a worker process. */
export type CaseReport =
  | {
      /** The guest runs and has been migrated without a fault. */
      readonly report: 'ready';
      readonly bytes: UncutBytes;
      readonly problems: readonly string[];
    }
  | { readonly report: 'done'; readonly result: CaseResult }
  | { readonly report: 'ended'; readonly before: Leftovers; readonly after: Leftovers };
