import { GodwitError } from '../errors.js';
import { pagesOf } from '../memory/guest-memory.js';
import type { SourceConnection } from './source-connection.js';
import type { SourceContext } from './source-context.js';

/**
 * Gives the queue the pages of the option `workingSet`, which go first after a switchover by post-copy. Throws `GODWIT_INVALID_ARGUMENT`
 * for bitmaps of other memory than the VM's.
 */
export function preferWorkingSet({ vm, options, queue }: SourceContext): void {
  const { workingSet, postcopy } = options;
  if (workingSet === undefined) return;
  const { memory } = vm;
  const pages = memory.blocks.map((block) => pagesOf(memory, block));
  const given = workingSet.blocks.map(({ pageCount }) => pageCount);
  if (given.length !== pages.length || given.some((count, i) => count !== pages[i])) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `workingSet must have a bitmap for each RAM block, of ${pages.join(', ')} pages; it has ${given.join(', ') || 'none'}`,
    );
  }
  if (postcopy) queue.prefer(workingSet);
}

/** Hands the pages of the option `workingSet` to a link that keeps them; throws `GODWIT_UNSUPPORTED` where they would have no effect. */
export function keepWorkingSet({ options }: SourceContext, { peer, keepWorkingSet: keep }: SourceConnection): void {
  const { workingSet, postcopy } = options;
  if (workingSet === undefined) return;
  keep?.(workingSet);
  if (keep !== undefined || postcopy) return;
  throw new GodwitError(
    'GODWIT_UNSUPPORTED',
    `workingSet says which pages go first in post-copy (postcopy: true) or in a snapshot (connectTo(file({ path }))); pre-copy to ${peer} has no such order: leave it out`,
  );
}
