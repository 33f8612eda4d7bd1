import { whatWouldConverge } from '../convergence/what-would-converge.js';
import { GodwitError } from '../errors.js';
import type { Decision, RoundRecord } from '../round-record.js';

/**
 * A policy has given up. The message says what would have made the migration converge, as far as its rounds show. A tracker that takes
 * most pages for dirty, whatever is written, is named: with it no policy and no link would help.
 *
 * @param rounds the rounds that are complete
 */
export function notConverging(
  { reason }: Decision,
  rounds: readonly RoundRecord[],
  limits: { readonly downtimeLimitMs: number; readonly bandwidthLimit: number },
): GodwitError {
  const { newlyDirtyPages, trackers } = rounds.at(-1) ?? { newlyDirtyPages: 0, trackers: [] };
  const culprits = trackers.filter(({ exact, dirtyPages }) => !exact && dirtyPages * 2 > newlyDirtyPages);
  const named = culprits.map(
    ({ name, dirtyPages }) =>
      `; of ${newlyDirtyPages} dirty pages the tracker "${name}" reported ${dirtyPages}, and it also reports pages that nobody wrote`,
  );
  return new GodwitError(
    'GODWIT_NOT_CONVERGING',
    `the migration does not converge: ${reason}${named.join('')}; ${whatWouldConverge(rounds, limits)}`,
  );
}
