import { fork } from 'node:child_process';
import type { MachineConfig } from '@godwit/example-node-vmm';
import { CommandProcess } from '@godwit/example-node-vmm/process';
import { type HostCommands, LAST_RESORT_MS, type Moved } from './host-messages.js';

export interface RoundTrips {
  readonly config: MachineConfig & { readonly dirtyRing: number | boolean };
  readonly times: number;
  /** Called after each migration, with what is wrong with the guest since then. */
  readonly onMoved: (moved: Moved, problems: readonly string[]) => void;
}

type Host = CommandProcess<HostCommands, { readonly type: string }>;

/** Moves one live guest there and back between two processes, over loopback TCP, and has it examined after each move. */
export async function roundTrips({ config, times, onMoved }: RoundTrips): Promise<void> {
  const hosts = [start('left'), start('right')] as const;
  try {
    await hosts[0].ask('boot', config);
    for (let move = 0; move < 2 * times; move++) {
      const [source, destination] = move % 2 === 0 ? hosts : [hosts[1], hosts[0]];
      const port = await destination.ask('listen', { dirtyRing: config.dirtyRing });
      const [moved, problems] = await Promise.all([source.ask('send', { port }), destination.ask('adopt', null)]);
      onMoved(moved, problems);
    }
  } finally {
    await Promise.all(hosts.map((host) => host.end(LAST_RESORT_MS)));
  }
}

function start(name: string): Host {
  const child = fork(new URL('./host.js', import.meta.url), {
    serialization: 'advanced',
    stdio: ['ignore', 'inherit', 'pipe', 'ipc'],
  });
  return new CommandProcess(name, child, () => undefined);
}
