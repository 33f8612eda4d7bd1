import { whatWouldConverge } from '../convergence/what-would-converge.js';
import { GodwitError } from '../errors.js';
import type { Decision } from '../round-record.js';
import type { SourceContext } from './source-context.js';

/**
 * The error for a policy that has given up. The message says with which limits the migration would have converged, as far as its
 * rounds show. It names a tracker that reports most pages as dirty whatever is written, since with such a tracker no policy and no
 * link would help, and the step at which the last stop-and-copy was given up.
 */
export function notConverging(
  { reason }: Decision,
  { records, options, attempts }: Pick<SourceContext, 'records' | 'options' | 'attempts'>,
): GodwitError {
  const { newlyDirtyPages, trackers } = records.at(-1) ?? { newlyDirtyPages: 0, trackers: [] };
  const culprits = trackers.filter(({ exact, dirtyPages }) => !exact && dirtyPages * 2 > newlyDirtyPages);
  const named = culprits.map(
    ({ name, dirtyPages }) =>
      `; of ${newlyDirtyPages} dirty pages the tracker "${name}" reported ${dirtyPages}, and it also reports pages that nobody wrote`,
  );
  const last = attempts.failed.at(-1)?.reason.message;
  if (last !== undefined && !reason.includes(last)) named.push(`; the last stop-and-copy was given up: ${last}`);
  return new GodwitError(
    'GODWIT_NOT_CONVERGING',
    `the migration does not converge: ${reason}${named.join('')}; ${whatWouldConverge(records, options)}`,
  );
}
