import type { Purpose } from './purposes.js';

/** One thing that was looked at. */
export interface Check {
  readonly name: string;
  /** `missing`: what it is `for` does not work. `note`: it works, and there is something to know. */
  readonly verdict: 'ok' | 'note' | 'missing';
  /** What was found, or why it cannot be used. */
  readonly found: string;
  /** What to do about it. */
  readonly remedy?: string;
  readonly for: readonly Purpose[];
}
