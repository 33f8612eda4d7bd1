import { GodwitError } from '../errors.js';
import type { Decision, RoundRecord } from '../round-record.js';

/**
 * A policy has given up. A tracker that takes most pages for dirty, whatever is written, is named: with it no policy and no link
 * would help.
 *
 * @param last the last round that is complete, if there is one
 */
export function notConverging(
  { reason }: Decision,
  last: Pick<RoundRecord, 'newlyDirtyPages' | 'trackers'> | undefined,
): GodwitError {
  const { newlyDirtyPages, trackers } = last ?? { newlyDirtyPages: 0, trackers: [] };
  const culprits = trackers.filter(({ exact, dirtyPages }) => !exact && dirtyPages * 2 > newlyDirtyPages);
  const named = culprits.map(
    ({ name, dirtyPages }) =>
      `; of ${newlyDirtyPages} dirty pages the tracker "${name}" reported ${dirtyPages}, and it also reports pages that nobody wrote`,
  );
  return new GodwitError('GODWIT_NOT_CONVERGING', `the migration does not converge: ${reason}${named.join('')}`);
}
