import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type LinkConnector, type LinkListener, type MigrateOptions, migrate, receive } from '@godwit/core';
import { connectTo, listenOn, tcp, unix } from '@godwit/transport';
import { expect } from '@jest/globals';
import { StillGuest } from './still-guest.js';

/** The two ends of links over sockets. */
export interface Ends {
  readonly connector: LinkConnector;
  readonly listener: LinkListener;
}

let directory: string | undefined;
const listeners: LinkListener[] = [];

const sockets: Record<string, () => Promise<Ends>> = {
  async tcp() {
    const listener = await listenOn(tcp({ port: 0 }));
    return { listener, connector: connectTo(tcp({ port: listener.listener.port })) };
  },
  async unix() {
    const transport = unix({ path: join(folder(), 'migration.sock') });
    return { listener: await listenOn(transport), connector: connectTo(transport) };
  },
};

/** Makes two ends over `tcp` or `unix`. The listener is closed by `closeEnds`. */
export async function ends(name: string): Promise<Ends> {
  const made = await (sockets[name] as () => Promise<Ends>)();
  listeners.push(made.listener);
  return made;
}

/** Has `closeEnds` close a listener too. */
export function closeLater(listener: LinkListener): void {
  listeners.push(listener);
}

/** Closes the listeners that were made, and removes their sockets. */
export async function closeEnds(): Promise<void> {
  await Promise.all(listeners.splice(0).map((listener) => listener.close()));
  if (directory !== undefined) rmSync(directory, { recursive: true });
  directory = undefined;
}

function folder(): string {
  directory ??= mkdtempSync(join(tmpdir(), 'godwit-workers-'));
  return directory;
}

/** Migrates a guest that writes in between, and compares all of it. */
export async function move({ connector, listener }: Ends, options: MigrateOptions, sizes?: readonly number[]) {
  const source = new StillGuest(true, sizes);
  const target = new StillGuest(false, sizes);
  source.fill();
  const incoming = receive(listener, { prepare: () => target });
  const migration = migrate(source, connector, { verify: true, ...options });
  let rounds = 0;
  migration.subscribe({
    next: (event) => {
      if (event.type !== 'round' || rounds++ > 0) return;
      for (let page = 0; page < 3000; page += 7) source.write(0, page, page % 5);
    },
    error: () => {},
  });
  const [summary, received] = await Promise.all([migration.result, incoming.result]);
  expect(target.running).toBe(true);
  expect(source.running).toBe(false);
  // Before the comparison: to read a hole gives it memory.
  const allocated = target.memory.allocatedBytes();
  expect(source.equals(target)).toBe(true);
  source.memory.close();
  target.memory.close();
  return { summary, received: received.summary, allocated };
}
