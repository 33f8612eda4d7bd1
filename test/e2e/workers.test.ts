import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type LinkConnector, type LinkListener, migrate, receive } from '@godwit/core';
import type { VirtualMachine } from '@godwit/example-node-vmm';
import { connectTo, listenOn, tcp, unix } from '@godwit/transport';
import { onWorkers } from '@godwit/workers';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { LiveGuest } from '../guest/live-guest.js';

jest.setTimeout(180_000);

const folder = mkdtempSync(join(tmpdir(), 'godwit-workers-'));
let guest: LiveGuest;

beforeAll(async () => {
  guest = await LiveGuest.boot();
});

afterAll(async () => {
  await guest.close();
  rmSync(folder, { recursive: true });
});

const sockets: Readonly<Record<string, () => Promise<{ connector: LinkConnector; listener: LinkListener }>>> = {
  tcp: async () => {
    const listener = await listenOn(tcp({ port: 0 }));
    return { listener, connector: connectTo(tcp({ port: listener.listener.port })) };
  },
  unix: async () => {
    const transport = unix({ path: join(folder, 'socket') });
    return { listener: await listenOn(transport), connector: connectTo(transport) };
  },
};

describe.each(Object.keys(sockets))('a live guest crosses %s on worker threads', (name) => {
  test.each([1, 2, 8])('with %i page channels, every page compared', async (pageChannels) => {
    const { connector, listener } = await (sockets[name] as (typeof sockets)[string])();
    const links = onWorkers(listener, { threads: pageChannels });
    try {
      const { machine } = guest;
      const options = { description: machine.description, pageChannels, verify: true };
      const [summary, { vm }] = await Promise.all([
        migrate(machine, onWorkers(connector), options).result,
        receive(links, { prepare: (description) => guest.blank(description) }).result,
      ]);
      expect(summary.verified).toBe(true);
      expect(machine.state).toBe('paused');
      await guest.moved(vm as VirtualMachine);
      expect(await guest.examine()).toEqual([]);
    } finally {
      await links.close();
    }
  });
});
