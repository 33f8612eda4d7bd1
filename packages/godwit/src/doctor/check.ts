import type { Purpose } from './purposes.js';

/** The result of one check. */
export interface Check {
  readonly name: string;
  /** `missing`: the purposes in `for` do not work. `note`: they work, with a restriction that the user should know. */
  readonly verdict: 'ok' | 'note' | 'missing';
  /** What was found, or why the facility cannot be used. */
  readonly found: string;
  /** What the user can do about the problem. */
  readonly remedy?: string;
  readonly for: readonly Purpose[];
}
