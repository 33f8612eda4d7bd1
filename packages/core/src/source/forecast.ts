import type { GuestSample } from '../estimate/sample-guest.js';
import type { ResolvedOptions } from './options.js';
import type { LinkProbe } from './probe-link.js';

/** What an estimate has to say for a migration to be refused or admitted; `Estimate` has it. */
export interface Forecast {
  readonly converges: boolean;
  readonly totalMs: { readonly expected: number };
  readonly downtimeMs: { readonly expected: number };
  readonly reason: string | undefined;
}

/** Makes a forecast of this migration from what was seen of its guest and its link. */
export type Forecaster = (
  sample: GuestSample,
  devices: readonly { readonly id: string; readonly bytes: number }[],
  link: LinkProbe,
  options: ResolvedOptions,
) => Promise<Forecast>;
