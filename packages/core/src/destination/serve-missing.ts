import type { MigratableVm } from '../device/migratable-vm.js';
import { GodwitError } from '../errors.js';
import type { DirtyBitmap } from '../memory/dirty-bitmap.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import { postcopyBlockers } from '../source/blockers.js';
import type { Arriving, DestinationContext } from './destination-context.js';
import type { IncomingConnection } from './incoming-connection.js';

/**
 * Begins to serve the VM's memory, for a guest that runs before its pages are there: from now on any thread may touch the memory, and waits
 * until the source's page is there. Throws `GODWIT_UNSUPPORTED` for a source whose pages cannot come after the guest runs, and
 * `GODWIT_BLOCKED` with the reasons of this side.
 */
export async function serveMissing(
  context: DestinationContext,
  connection: IncomingConnection,
  vm: MigratableVm,
): Promise<void> {
  const { options, emit } = context;
  const { faults } = options;
  const { link, hello, peer } = connection;
  if (!options.atOnce || faults === undefined) return;
  if (link.comingPages === undefined) {
    throw new GodwitError(
      'GODWIT_UNSUPPORTED',
      `the guest of ${peer} cannot run at once: its pages come only before it runs. A snapshot's can come later (\`file\`)`,
    );
  }
  const reasons = [...postcopyBlockers(vm), ...faults.blockers(vm.memory)];
  if (reasons.length > 0) {
    throw new GodwitError('GODWIT_BLOCKED', `the guest cannot run before its memory is whole: ${reasons.join('; ')}`);
  }
  const coming = await link.comingPages();
  const contents = new DirtyBitmaps(vm.memory);
  const first = coming.workingSet && new DirtyBitmaps(vm.memory);
  for (const [i, block] of hello.blocks.entries()) {
    // The hello was compared with the VM's memory: both have the same blocks, in any order.
    const index = vm.memory.blocks.findIndex(({ id }) => id === block.id);
    contents.at(index).or(coming.contents[i] as DirtyBitmap);
    first?.at(index).or(coming.workingSet?.[i] as DirtyBitmap);
  }
  context.missing = await faults.serve({
    memory: vm.memory,
    contents,
    first,
    source: coming.source,
    onLost: (block, page, reason) => {
      const message = `page ${page} of RAM block "${vm.memory.blocks[block]?.id}" cannot be had: ${reason.message}`;
      emit({ type: 'warning', code: 'GODWIT_PAGES_MISSING', message });
    },
  });
}

/**
 * Begins to serve the VM's memory, in which the pages that the source has named are missing and the others are in place. `isWanted` returns
 * false once the source has given up the switchover; the service is then undone.
 */
export async function serveNamed(
  context: DestinationContext,
  { vm }: Arriving,
  named: DirtyBitmaps,
  isWanted: () => boolean,
): Promise<void> {
  const { faults } = context.options;
  if (faults === undefined) throw new GodwitError('GODWIT_INTERNAL', 'there is nothing that serves missing pages');
  const missing = await faults.serve({ memory: vm.memory, contents: named, others: 'stay', source: undefined });
  if (isWanted()) context.missing = missing;
  else await missing.undo();
}
