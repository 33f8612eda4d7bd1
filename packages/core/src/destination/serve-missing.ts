import type { MigratableVm } from '../device/migratable-vm.js';
import { GodwitError } from '../errors.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { DestinationContext } from './destination-context.js';
import type { IncomingConnection } from './incoming-connection.js';

/**
 * Begins to serve the VM's memory, for a guest that runs before its pages are there: from now on any thread may touch it, and gets the page
 * of the source. Throws `GODWIT_UNSUPPORTED` for a source whose pages cannot come so, `GODWIT_BLOCKED` with the reasons of this side.
 */
export async function serveMissing(
  context: DestinationContext,
  connection: IncomingConnection,
  vm: MigratableVm,
): Promise<void> {
  const { options, emit } = context;
  const { faults } = options;
  const { link, hello, peer } = connection;
  if (faults === undefined) return;
  if (link.comingPages === undefined) {
    throw new GodwitError(
      'GODWIT_UNSUPPORTED',
      `the guest of ${peer} cannot run at once: its pages come only before it runs. A snapshot's can come later (\`file\`)`,
    );
  }
  const reasons = [...deviceReasons(vm), ...faults.blockers(vm.memory)];
  if (reasons.length > 0) {
    throw new GodwitError('GODWIT_BLOCKED', `the guest cannot run before its memory is whole: ${reasons.join('; ')}`);
  }
  const coming = await link.comingPages();
  const contents = new DirtyBitmaps(vm.memory);
  for (const [i, block] of hello.blocks.entries()) {
    // The hello was compared with the VM's memory: the blocks are the same, in any order.
    const index = vm.memory.blocks.findIndex(({ id }) => id === block.id);
    contents.at(index).or(coming.contents[i] as (typeof coming.contents)[number]);
  }
  context.missing = await faults.serve({
    memory: vm.memory,
    contents,
    source: coming.source,
    onLost: (block, page, reason) => {
      const message = `page ${page} of RAM block "${vm.memory.blocks[block]?.id}" cannot be had: ${reason.message}`;
      emit({ type: 'warning', code: 'GODWIT_PAGES_MISSING', message });
    },
  });
}

function deviceReasons({ devices }: MigratableVm): string[] {
  return devices.flatMap(({ id, wholeMemory }) =>
    wholeMemory === undefined ? [] : [`device "${id}": ${wholeMemory}`],
  );
}
