import type { UncutBytes } from './all-cases.js';
import type { Leftovers } from './leftovers.js';

/** How a case went: the same for a fault, for a death and for a case that is many migrations. */
export interface CaseResult {
  /** Whether the place was reached: a run may end before it. */
  readonly struck: boolean;
  /** How the case ended, for counting: `moved`, `moved, reconnected`, `stayed: GODWIT_LINK_LOST`, ... */
  readonly ending: string;
  /** Findings that must not be; empty when all is well. */
  readonly problems: readonly string[];
  /** Printed instead of the endings. */
  readonly summary?: string;
  /** How many cases it counts as (default 1). */
  readonly cases?: number;
}

/** Orders to a process that runs cases. */
export type CaseOrder =
  | { readonly order: 'run'; readonly name: string; readonly seed: number }
  | { readonly order: 'end' };

/** Reports of such a process. */
export type CaseReport =
  | {
      /** The guest runs, and has been migrated uncut. */
      readonly report: 'ready';
      readonly bytes: UncutBytes;
      readonly problems: readonly string[];
    }
  | { readonly report: 'done'; readonly result: CaseResult }
  | { readonly report: 'ended'; readonly before: Leftovers; readonly after: Leftovers };
