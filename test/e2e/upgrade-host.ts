/**
 * The new VMM of an upgrade, as a process of its own: it maps the guest's memory files, which it has inherited as descriptors from 3 on,
 * receives the guest over a UNIX socket and reports its findings. Arguments: the socket's path, the RAM blocks as JSON, and `refuse` for
 * a VMM whose device fails to load.
 */
import { GodwitError, type MigratableVm, receive } from '@godwit/core';
import type { VirtualMachine } from '@godwit/example-node-vmm';
import { attachGuestMemory, type BlockPlacement } from '@godwit/linux';
import { listenOn, unix } from '@godwit/transport';
import { LiveGuest } from '../guest/live-guest.js';

/** The reports of the process on its standard output, one JSON object a line. */
export type UpgradeReport =
  | { readonly type: 'listening' }
  | { readonly type: 'arrived'; readonly running: boolean; readonly problems: readonly string[] }
  | { readonly type: 'refused'; readonly code: string };

const [path = '', layout = '[]', how] = process.argv.slice(2);
const say = (report: UpgradeReport): void => void process.stdout.write(`${JSON.stringify(report)}\n`);

const blocks = (JSON.parse(layout) as BlockPlacement[]).map((block, i) => ({
  ...block,
  fd: 3 + i,
  shared: true as const,
}));
const guest = new LiveGuest();
const links = await listenOn(unix({ path }));
const incoming = receive(links, {
  prepare: async (description): Promise<MigratableVm> => {
    const machine = await guest.upgrade(description, attachGuestMemory({ blocks }));
    if (how === 'refuse') {
      const last = machine.devices.at(-1);
      if (last === undefined) throw new Error('unreachable');
      last.load = async () => {
        throw new GodwitError('GODWIT_DEVICE_FAILED', 'it refuses on purpose');
      };
    }
    return machine;
  },
});
say({ type: 'listening' });
try {
  const { vm } = await incoming.result;
  await guest.moved(vm as VirtualMachine);
  // The guest's former VMM has ended by now, or ends while the guest is examined.
  say({ type: 'arrived', running: guest.here, problems: await guest.examine() });
} catch (error) {
  say({ type: 'refused', code: GodwitError.wrap(error, 'GODWIT_INTERNAL', 'it failed').code });
} finally {
  await guest.close();
  await links.close();
}
